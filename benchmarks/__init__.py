"""How fast each stage is, beside what one would use instead: `python -m benchmarks`.

Every contender is a process of its own (`worker`), started, spoken to and paused by this one
(`child`). They run in turns, A B A B ..., for some rounds (`race`): a busy machine then slows all
of them, and what counts is the ratio within a round. `results` holds the numbers, `page` writes
them down.

Each stage is a list of cases, and a case a list of contenders (`contenders`). The modules that
list them import nothing heavy; what a contender does lies in modules that its worker alone imports.
"""

"""Measures how fast each stage is, compared with what one would use instead.

`python -m benchmarks` runs it. Each stage has cases, and each case has contenders (`contenders`).
`stages/` lists them and imports nothing heavy. `builders/` holds what a contender does; only worker
processes import it.

Every contender runs in a process of its own (`worker`), which the command starts, asks and pauses
(`child`). The contenders take turns, A B A B ..., for some rounds (`race`): a busy machine then
slows all of them, and the ratio within a round still counts. `results` holds the numbers, `page`
writes the Markdown page. `python -m benchmarks.precision` compares precisions in the same way.
"""

"""Markdown pages: links, anchors and commands hold. `make docs` checks the built site."""

import re
from functools import cache
from pathlib import Path

import pytest
from running import ROOT, run_module

PAGES = sorted(
    page for pattern in ("*.md", "docs/*.md", "tfds_aml/*/README.md") for page in ROOT.glob(pattern)
)
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"python -m ((?:leuko_tf|serving|tfds_aml|benchmarks)[\w.]*)([^`|#]*)")


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def anchors(page: Path) -> set[str]:
    """Anchors that GitHub and MyST give to the headings of a page, and of pages it includes."""
    text = page.read_text()
    included = re.findall(r"^```\{include\} (\S+)", text, re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", text), re.MULTILINE)
    names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return names.union(*(anchors((page.parent / name).resolve()) for name in included))


@cache
def help_of(module: str) -> str:
    done = run_module(module, "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_commands_exist_and_have_these_options(page: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    for module, rest in (m for line in text.splitlines() for m in COMMAND.findall(line)):
        if module == "leuko_tf.bench":  # the changelog tells its new name
            continue
        options = set(re.findall(r"(?<!\S)--[a-z][\w-]*", rest))
        missing = {o for o in options if not re.search(rf"{o}(?![\w-])", help_of(module))}
        assert not missing, f"python -m {module}: {missing}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1500

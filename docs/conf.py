"""Sphinx configuration: `make docs` builds the pages and the API reference, without a network."""

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from leuko_tf import __version__

project = "leuko_tf"
author = "The leuko_tf maintainers"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"  # docstrings write `name`, as Markdown does

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_title = f"leuko_tf {release}"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def setup(app: Any) -> None:
    """Registers the hook below; called by Sphinx."""
    app.connect("autodoc-process-docstring", _keep_indented_blocks)


def _keep_indented_blocks(_app: Any, what: str, *arguments: Any) -> None:
    """Shows indented blocks of a module's docstring, such as commands and columns, as written."""
    lines: list[str] = arguments[-1]
    if what != "module":
        return
    kept: list[str] = []
    is_block = False
    for line in lines:
        if line.startswith("  ") and not is_block and not _continues_list(kept):
            is_block = True
            kept += ["", "::", ""]
        elif line and not line.startswith(" ") and is_block:
            is_block = False
            kept.append("")
        kept.append(line)
    lines[:] = kept


def _continues_list(lines: list[str]) -> bool:
    """Whether an indented line after these belongs to an item of a list."""
    for line in reversed(lines):
        if line.startswith("- "):
            return True
        if not line.startswith("  "):
            return False
    return False

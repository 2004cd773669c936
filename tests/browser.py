"""Opens a page in headless Chromium at several widths and measures its layout."""

import json
import os
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

WIDTHS = (360, 768, 1280)  # a phone, a tablet, a desk; CSS pixels

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The page is shown in a frame, because Chromium's window cannot be as narrow as a phone. Scripts
# may access a frame that is made from text, but not one that is made from a file.
PROBE = """<!DOCTYPE html>
<body><pre id="found"></pre>
<script>
const page = PAGE;
function look(frame, width) {
  const view = frame.contentDocument, root = view.documentElement, beyond = [], cut = [];
  for (const element of view.body.querySelectorAll("*")) {
    if (element.closest("svg") && element.tagName !== "svg") continue;
    const scrolls = element.parentElement.closest(".scroll");
    const box = element.getBoundingClientRect();
    if (!scrolls && box.right > width + 1) beyond.push(element.tagName + " " + element.className);
  }
  for (const text of view.querySelectorAll("svg text")) {
    const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect();
    if (inner.left < outer.left - 1 || inner.right > outer.right + 1 ||
        inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1) cut.push(text.textContent);
  }
  const images = [...view.images];
  return {
    width, scrollWidth: root.scrollWidth, height: root.scrollHeight, beyond, cut,
    figures: [...view.querySelectorAll("figure svg")].map(
      svg => [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height]),
    images: images.map(image => image.complete ? image.naturalWidth : 0),
    headings: [...view.querySelectorAll("h2")].map(h => h.textContent),
    wideTables: [...view.querySelectorAll(".scroll")].filter(
      box => box.scrollWidth > box.clientWidth + 1).map(box => box.innerText.slice(0, 60)),
  };
}
const found = [];
for (const width of WIDTHS) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.onload = () => {
    found.push(look(frame, width));
    document.getElementById("found").textContent = JSON.stringify(found);
  };
  frame.srcdoc = page;
  document.body.append(frame);
}
</script></body>
"""


def find_browser() -> str | None:
    """Finds the path of the browser, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def look_at(page: Path) -> list[dict[str, Any]]:
    """Measures a page at each of `WIDTHS`; see `PROBE`."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.html"
        text = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
        probe.write_text(
            PROBE.replace("WIDTHS", json.dumps(WIDTHS)).replace("PAGE", text), encoding="utf-8"
        )
        dump = ("--dump-dom", "--virtual-time-budget=20000", probe.as_uri())
        dom = _run(folder, *dump)
    found = json.loads(unescape(dom.partition('<pre id="found">')[2].partition("</pre>")[0]))
    return sorted(found, key=lambda view: view["width"])


def print_to_pdf(page: Path, pdf: Path) -> None:
    """Prints a page to a PDF file."""
    with tempfile.TemporaryDirectory() as folder:
        _run(folder, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", page.as_uri())


def _run(folder: str, *arguments: str) -> str:
    browser = find_browser()
    assert browser
    done = subprocess.run(
        [browser, *QUIET, f"--user-data-dir={folder}/profile", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "HOME": folder},
    )
    return done.stdout

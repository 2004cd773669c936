"""Checks the built documentation: `python docs/check_links.py build/docs`.

Every link to a page, a file or an anchor of the site must resolve, and no page may load a script,
style, font or image from elsewhere. Links to other sites are not followed.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    """The anchors, links and loaded files of one HTML page."""

    def __init__(self, file: Path):
        super().__init__()
        self.anchors = {"", "top"}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in LOADED and LOADED[tag] in values:
            self.loaded.append(values[LOADED[tag]])


def find_problems(site: Path) -> list[str]:
    """Lists the broken links and external files of a site, one line each."""
    pages = {file.resolve(): Page(file) for file in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"{site} holds no HTML page"]
    problems = []
    for file, page in pages.items():
        name = file.relative_to(site.resolve())
        problems += [f"{name} loads {url}" for url in page.loaded if is_external(url)]
        for url in {*page.links, *page.loaded}:
            if is_external(url) or url.startswith("data:"):
                continue
            path, anchor = unquote(urlsplit(url).path), unquote(urlsplit(url).fragment)
            target = (file.parent / path).resolve() if path else file
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                problems.append(f"{name} links to {url}: no such file")
            elif target in pages and anchor not in pages[target].anchors:
                problems.append(f"{name} links to {url}: no such anchor")
    return sorted(problems)


def is_external(url: str) -> bool:
    """Whether a URL names another site; data URLs are part of the page."""
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


if __name__ == "__main__":
    found = find_problems(Path(sys.argv[1]))
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    sys.exit(bool(found))

"""The built site of the guides, and what its pages load and link to."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

ROOT: Final = Path(__file__).parents[2]
# Attributes by which a page loads something of itself; `href` does so only in a <link>.
LOADS: Final = ("src", "srcset", "data", "poster", "action")
STYLE_LOADS: Final = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


class Page(HTMLParser):
    """What a page loads, what a person can click on, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if not value or value.startswith("data:"):
                continue
            if name in LOADS or (tag == "link" and name == "href"):
                self.loads.append(value)
            elif name == "href":
                self.links.append(value)
            elif name == "style":
                self.loads += loads_of_style(value)


def loads_of_style(text: str) -> Iterator[str]:
    for match in STYLE_LOADS.finditer(text):
        address = match[1] or match[2]
        if not address.startswith(("data:", "#")):
            yield address


def is_outside(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.scheme or parts.netloc)


def target(page: Path, address: str) -> tuple[Path, str]:
    """The file and the anchor that an address of a page leads to."""
    parts = urlsplit(address)
    return ((page.parent / unquote(parts.path)) if parts.path else page).resolve(), unquote(parts.fragment)


def copy_sources(folder: Path) -> None:
    """What `make docs` reads, for a build that leaves the working tree alone."""
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does."""
    return subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

"""The blocks of code in the README and the guides, and the commands that stand in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
FENCE: Final = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r"(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
ASSIGNMENT: Final = re.compile(r"[A-Z][A-Z0-9_]*=")
COMMENT: Final = re.compile(r"(?:^|\s+)# .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    reason: str | None
    """Why it is not checked; None if it is."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    where: str
    environment: tuple[str, ...]
    words: tuple[str, ...]


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Block(page, line, found["language"], found["text"], found["reason"])


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page)]


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a shell block, or of the lines of a console that begin with `$ `, as a shell reads them."""
    text = block.text
    if block.language == "console":
        text = "".join(line[2:] for line in text.splitlines(keepends=True) if line.startswith("$ "))
    # A newline ends a command, but inside quotes and after a backslash.
    lexer = shlex.shlex(COMMENT.sub("", text.replace("\\\n", " ")), posix=True, punctuation_chars="|&;\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if not set(word) <= set("|&;\n"):
            words.append(word)
        elif words:
            count = next((n for n, each in enumerate(words) if not ASSIGNMENT.match(each)), len(words))
            yield Command(str(block), tuple(words[:count]), tuple(words[count:]))
            words = []

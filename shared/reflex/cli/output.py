"""The output of several processes on one terminal: each line begins with the short name of who wrote it."""

import asyncio
import contextlib
import os
import sys
from typing import Final, TextIO

__all__ = ["Output"]

OURS: Final = "reflex"
COLOURS: Final = ("36", "32", "33", "35", "34")
WIDTH: Final = 9
# Something that never ends its line must not fill the memory.
LONGEST_LINE: Final = 64 * 1024


class Output:
    """Writes whole lines, with colours on a terminal only."""

    def __init__(self, names: list[str], stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.coloured = self._stream.isatty() and "NO_COLOR" not in os.environ
        self._colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)} | {OURS: "1"}
        self.closed = asyncio.Event()

    def say(self, sentence: str) -> None:
        """Something of our own."""
        self.write(OURS, sentence)

    def block(self, text: str) -> None:
        """Several lines that stand for themselves."""
        self._write(f"\n{text}\n\n")

    def write(self, name: str, line: str) -> None:
        prefix = f"{name:<{WIDTH}} |"
        if self.coloured:
            prefix = f"\x1b[{self._colours[name]}m{prefix}\x1b[0m"
        self._write(f"{prefix} {line}\n")

    async def copy(self, name: str, reader: asyncio.StreamReader) -> None:
        """Write what comes, line by line, until it ends."""
        rest = b""
        while chunk := await reader.read(LONGEST_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self.write(name, line.decode(errors="replace").rstrip("\r"))
        if rest:
            self.write(name, rest.decode(errors="replace"))

    def _write(self, text: str) -> None:
        if self.closed.is_set():
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # the terminal is gone, or `reflex dev | head` has seen enough
            self.closed.set()
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # for what Python still flushes at its end

"""What every benchmark is given: the server, how often to measure, and how long."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reflex.cli.bench.databases import Server

__all__ = ["Setting"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """One run of the command. `say` tells whoever waits what is going on."""

    server: Server
    runs: int
    quick: bool
    say: Callable[[str], None]
    peers_python: Path | None = None

    @property
    def folder(self) -> Path:
        """For files of the processes that are measured."""
        return self.server.folder

    def database(self, *, migrated: bool = True) -> AbstractContextManager[str]:
        return self.server.database(migrated=migrated)

    def sized(self, full: T, quick: T) -> T:
        """A size or a duration: `quick` only shows that everything works."""
        return quick if self.quick else full

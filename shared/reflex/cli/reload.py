"""Which processes a change of code concerns, and being told of such changes."""

import asyncio
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

__all__ = ["WatchedFolder", "roles_of", "watch", "watched_folders"]

GATEWAY: Final = frozenset({"gateway"})
WORKER: Final = frozenset({"worker"})
# The packages of Reflex itself, watched where they are installed as links to a checkout.
PACKAGES: Final = {
    "agent": WORKER,
    "cli": GATEWAY | WORKER,
    "console": GATEWAY,
    "core": GATEWAY | WORKER,
    "gateway": GATEWAY,
    "worker": WORKER,
}
SUFFIXES: Final = (".py", ".sql")


@dataclass(frozen=True, slots=True)
class WatchedFolder:
    """A folder whose code the processes of `roles` run."""

    path: Path
    roles: frozenset[str]
    recursive: bool = True

    def holds(self, file: Path) -> bool:
        return file.is_relative_to(self.path) if self.recursive else file.parent == self.path


def watched_folders(app: str, working_folder: Path) -> list[WatchedFolder]:
    """The folder of the app's top package (of an app that is one file: the files beside it), and Reflex's own."""
    return [*_app_folders(app, working_folder), *_reflex_folders()]


def roles_of(files: Iterable[Path], folders: list[WatchedFolder]) -> frozenset[str]:
    """Who runs any of these files."""
    return frozenset[str]().union(*(folder.roles for file in files for folder in folders if folder.holds(file)))


async def watch(folders: list[WatchedFolder], changed: Callable[[list[Path]], None]) -> None:
    """Call `changed` with the files of code that were written, added or removed. Never returns.

    Raises:
        ImportError: watchfiles, which is among the development dependencies only, is not installed.
    """
    from watchfiles import Change, DefaultFilter, awatch  # pyright: ignore[reportUnknownVariableType]

    class Code(DefaultFilter):
        def __call__(self, change: Change, path: str) -> bool:
            return path.endswith(SUFFIXES) and super().__call__(change, path)

    async def follow(recursive: bool) -> None:
        paths = [folder.path for folder in folders if folder.recursive is recursive]
        if paths:
            async for changes in awatch(*paths, watch_filter=Code(), recursive=recursive):
                changed(sorted({Path(path) for _, path in changes}))

    async with asyncio.TaskGroup() as group:
        group.create_task(follow(True))
        group.create_task(follow(False))


def _app_folders(app: str, working_folder: Path) -> list[WatchedFolder]:
    # The top package alone: looking for anything deeper would import it, here.
    spec = PathFinder.find_spec(app.partition(".")[0], [str(working_folder), *sys.path])
    if spec and spec.submodule_search_locations:
        return [WatchedFolder(Path(place).resolve(), WORKER) for place in spec.submodule_search_locations]
    if spec and spec.origin:
        return [WatchedFolder(Path(spec.origin).resolve().parent, WORKER, recursive=False)]
    return [WatchedFolder(working_folder.resolve(), WORKER, recursive=False)]  # it may be written yet


def _reflex_folders() -> list[WatchedFolder]:
    spec = importlib.util.find_spec("reflex")
    places = [Path(place).resolve() for place in (spec and spec.submodule_search_locations) or ()]
    return [
        WatchedFolder(place / package, roles)
        for place in places
        if "site-packages" not in place.parts
        for package, roles in PACKAGES.items()
        if (place / package).is_dir()
    ]

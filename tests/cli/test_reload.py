"""Which change of code restarts whom."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import reflex.core.ids as core_module
from reflex.cli.reload import WatchedFolder, roles_of, watch, watched_folders
from tests.processes import eventually

WORKER = frozenset({"worker"})
GATEWAY = frozenset({"gateway"})


def app_folder(app: str, working_folder: Path) -> WatchedFolder:
    return watched_folders(app, working_folder)[0]


def test_of_an_app_in_a_package_the_whole_package_is_watched_and_nothing_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "warehouse"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    assert app_folder("warehouse.orders.app", tmp_path) == WatchedFolder(package, WORKER)
    assert "warehouse" not in sys.modules


def test_of_an_app_without_init_files_the_top_folder_is_watched(tmp_path: Path) -> None:
    (tmp_path / "depot" / "orders").mkdir(parents=True)
    assert app_folder("depot.orders.app", tmp_path) == WatchedFolder(tmp_path / "depot", WORKER)


def test_of_an_app_in_one_file_the_files_beside_it_are_watched(tmp_path: Path) -> None:
    (tmp_path / "kiosk.py").touch()
    folder = app_folder("kiosk", tmp_path)
    assert roles_of([tmp_path / "other.py"], [folder]) == WORKER
    assert roles_of([tmp_path / ".venv" / "other.py"], [folder]) == frozenset()


def test_an_app_that_is_not_there_yet_may_be_written(tmp_path: Path) -> None:
    assert app_folder("unwritten", tmp_path) == WatchedFolder(tmp_path, WORKER, recursive=False)


def test_of_reflex_itself_each_package_restarts_those_who_run_it(tmp_path: Path) -> None:
    core = Path(core_module.__file__).parent
    if "site-packages" in core.parts:
        pytest.skip("Reflex is not installed as a link to a checkout")
    root = core.parents[2]
    folders = watched_folders("unwritten", tmp_path)
    for file, roles in (
        ("shared/reflex/core/sql/claim.sql", WORKER | GATEWAY),
        ("gateway/reflex/gateway/app.py", GATEWAY),
        ("worker/reflex/worker/attempt.py", WORKER),
        ("worker/reflex/agent/filters.py", WORKER),
        ("tests/conftest.py", frozenset[str]()),
    ):
        assert roles_of([root / file], folders) == roles, file


@asynccontextmanager
async def watching(folders: list[WatchedFolder], probe: Path) -> AsyncGenerator[list[Path]]:
    """The changes, from the moment on at which a change of `probe` is noticed."""
    seen: list[Path] = []
    task = asyncio.create_task(watch(folders, seen.extend))
    try:

        def noticed() -> bool:
            probe.write_text("")
            return probe in seen

        await eventually(noticed)
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("recursive", [True, False])
async def test_code_and_sql_are_noticed_and_nothing_else(tmp_path: Path, recursive: bool) -> None:
    async with watching([WatchedFolder(tmp_path, WORKER, recursive)], tmp_path / "probe.py") as seen:
        (tmp_path / "notes.txt").write_text("x")
        (tmp_path / "__pycache__").mkdir()
        (tmp_path / "__pycache__" / "app.py").write_text("x")
        (tmp_path / "query.sql").write_text("x")
        await eventually(lambda: tmp_path / "query.sql" in seen)
        (tmp_path / "query.sql").unlink()
        (tmp_path / "last.py").write_text("x")
        await eventually(lambda: tmp_path / "last.py" in seen)
        assert {path.name for path in seen} == {"probe.py", "query.sql", "last.py"}

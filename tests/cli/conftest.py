"""Commands that run in the process of the test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reflex.cli.main import app

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """A command in this process, for what it prints. Not from an async test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)

    def run(*arguments: str) -> tuple[str, str]:
        app(arguments, standalone_mode=False)
        return capsys.readouterr()

    return run

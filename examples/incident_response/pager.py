"""Whoever calls people's phones: somebody else's system, here a file of SQLite below REFLEX_DATA_DIR, which remembers
whom it has called after a worker has died."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

TABLE = "CREATE TABLE IF NOT EXISTS page (key TEXT PRIMARY KEY, person TEXT NOT NULL, message TEXT NOT NULL)"


@contextmanager
def its_records() -> Generator[sqlite3.Connection]:
    folder = Path(os.environ.get("REFLEX_DATA_DIR", ".reflex"))
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "incident_response.sqlite", timeout=30)
    try:
        connection.execute(TABLE)
        with connection:
            yield connection
    finally:
        connection.close()


def page(person: str, message: str, *, key: str) -> bool:
    """Call a phone, once for each key, however often it is asked. Whether it was called now."""
    with its_records() as records:
        return records.execute("INSERT OR IGNORE INTO page VALUES (?, ?, ?)", (key, person, message)).rowcount == 1


def pages() -> list[tuple[str, str]]:
    """Who was called, in order, and what they were told."""
    with its_records() as records:
        return records.execute("SELECT person, message FROM page ORDER BY rowid").fetchall()

"""What belongs to others: the bank that issued the cards, and the office that prints letters. Here they share a file
of SQLite below REFLEX_DATA_DIR, so that they remember what they were asked after a worker has died."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PAST_PAYMENTS = {"4000-17": [1_200, 3_500, 900, 4_200], "4000-18": [25_000, 31_000]}
TABLES = """
CREATE TABLE IF NOT EXISTS bank_order (key TEXT PRIMARY KEY, what TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS letter (number INTEGER PRIMARY KEY, reference TEXT NOT NULL, customer TEXT, content TEXT);
"""


@contextmanager
def their_records() -> Generator[sqlite3.Connection]:
    folder = Path(os.environ.get("REFLEX_DATA_DIR", ".reflex"))
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "fraud_review.sqlite", timeout=30)
    try:
        connection.executescript(TABLES)
        with connection:
            yield connection
    finally:
        connection.close()


def card_history(card: str) -> list[int]:
    """What was paid with a card before, in cents."""
    return PAST_PAYMENTS.get(card, [])


def order_of_the_bank(what: str, *, key: str) -> None:
    """The bank does what it is told once for each key, however often it is told."""
    with their_records() as records:
        records.execute("INSERT OR IGNORE INTO bank_order VALUES (?, ?)", (key, what))


def post_letter(customer: str, content: str, *, reference: str) -> str:
    """Every call is a letter; the reference is for asking what became of it. The letter's number."""
    with their_records() as records:
        insert = "INSERT INTO letter (reference, customer, content) VALUES (?, ?, ?) RETURNING number"
        (number,) = records.execute(insert, (reference, customer, content)).fetchone()
    return f"L-{number}"


def find_letter(reference: str) -> str | None:
    """The number of the letter with this reference."""
    with their_records() as records:
        found = records.execute("SELECT number FROM letter WHERE reference = ?", (reference,)).fetchone()
    return f"L-{found[0]}" if found else None


def everything() -> tuple[list[str], list[str]]:
    """All that the bank was told, and all letters, for looking at."""
    with their_records() as records:
        orders = [what for (what,) in records.execute("SELECT what FROM bank_order ORDER BY rowid")]
        letters = [f"to {who}: {what}" for who, what in records.execute("SELECT customer, content FROM letter")]
    return orders, letters


def forget_everything() -> None:
    """For tests."""
    with their_records() as records:
        records.executescript("DELETE FROM bank_order; DELETE FROM letter")

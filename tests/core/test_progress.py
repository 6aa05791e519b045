"""Progress as payloads: small enough for PostgreSQL whatever a model says, and read back as it was."""

from dataclasses import replace
from typing import Any

import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from reflex.core.progress import Progress, decode, encode, send_progress
from tests.watching import watcher

RECORD = Progress(
    event_id="0199c1d0-0000-7000-8000-000000000000",
    delivery_id="7-0199c1d0-0000-7000-8000-000000000000",
    trigger="pack",
    attempt=2,
    type="order.created",
    source="http",
    key=None,
    correlation_id="c",
    seq=1,
    kind="text",
    text="hello",
    request=1,
)


def test_records_come_back_as_they_were_and_in_order() -> None:
    """Fails with: fields left out whose value is falsy but not the default (`key`)."""
    call = replace(
        RECORD, seq=2, kind="tool_call", text="", tool="stock", tool_call_id="c-1", arguments="{}", dropped=3
    )
    (payload,) = encode([RECORD, call])
    assert decode(payload) == [RECORD, call]
    assert "truncated" not in payload, "what is as usual is not sent"


def test_many_records_share_payloads_that_postgresql_takes() -> None:
    """Fails with: one payload for each record; one for all."""
    records = [replace(RECORD, seq=seq, text="x" * 500) for seq in range(100)]
    payloads = encode(records)
    assert all(len(payload.encode()) <= 7_900 for payload in payloads)
    assert len(payloads) < 15
    assert [record for payload in payloads for record in decode(payload)] == records


@pytest.mark.parametrize("letter", ["x", "\x00", "é", "🦊", '"', "\\"])
@pytest.mark.parametrize("field", ["text", "arguments", "result", "tool", "tool_call_id", "key"])
async def test_what_is_too_long_is_cut_and_says_so(field: str, letter: str) -> None:
    """Fails with: a limit in characters; only the text cut."""
    changed: dict[str, Any] = {field: letter * 9_000}
    (payload,) = encode([replace(RECORD, **changed)])
    assert 7_000 < len(payload.encode()) <= 7_900
    (record,) = decode(payload)
    assert record.truncated
    assert record.event_id == RECORD.event_id
    assert set(getattr(record, field)) == {letter}


async def test_postgresql_takes_the_largest_payload_and_every_character(
    conn: AsyncConnection[Any], database_url: str
) -> None:
    """NUL, half a surrogate pair, 7,900 bytes. Fails with: a larger limit; NUL unescaped; no second try at the JSON."""
    records = [replace(RECORD, text="x" * 9_000), replace(RECORD, text="a\x00b\ud83d🦊")]
    async with watcher(database_url) as someone:
        await send_progress(conn, encode(records))
        await someone.hears(lambda: len(someone.heard) == 2)
        assert someone.heard[1].text == "a\x00b?🦊"


@pytest.mark.parametrize("payload", ["", "{", "7", "null", "{}", "[1]", '[{"kind": "text"}]', '["\\ud83d"]', "[[[["])
def test_garbage_is_no_progress_and_no_error(payload: str) -> None:
    """Fails with: any of the exceptions let through; what was sent written to the log."""
    with capture_logs() as lines:
        assert decode(payload) == []
    assert {line["log_level"] for line in lines} == {"debug"}


def test_what_a_newer_worker_adds_is_ignored() -> None:
    """Fails with: unknown fields refused, or one bad record ending the others."""
    (payload,) = encode([replace(RECORD, kind="new")])
    newer = payload.replace('"seq"', '"later":[1],"seq"')
    assert decode(f"[7,{newer[1:]}") == [replace(RECORD, kind="new")]

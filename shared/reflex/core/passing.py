"""What stateful filters let through: once for each delivery, and by what all workers have let through before.

    asked ──locked by subject──► counted ──► let through, or not; either way a step of the delivery's journal

The step stands in every attempt at the delivery. A replay forgets it with the journal, and decides anew.
"""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

import orjson
from psycopg import AsyncConnection

from reflex.core.journal import Step, StepKind, journal_step
from reflex.core.settlement import Claimed
from reflex.core.statements import only_row, statement

__all__ = ["Limit", "let_through", "lock_subjects", "sweep_gathered"]

FINGERPRINT: Final = hashlib.sha256(b"stateful filter").digest()


class Limit(NamedTuple):
    """At most so many events of a subject within a time. `reason` is why one more is not let through, for people."""

    subject: str
    most: int
    within: timedelta
    reason: str


async def let_through(conn: AsyncConnection[Any], lease: Claimed, limits: Sequence[Limit]) -> str | None:
    """Whether the delivery's event is let through: None if it is, else why not.

    It is let through if it keeps to all of the limits, and counts for them only then. Asked again, in a later attempt
    or because an answer was lost, the same.

    Args:
        conn: Autocommit.

    Raises:
        LeaseLost: The delivery is another worker's by now; nothing was decided.
    """
    if not limits:
        return None
    async with conn.transaction():
        await lock_subjects(conn, [(lease.trigger_id, limit.subject) for limit in limits])
        parameters: dict[str, Any] = {"trigger_id": lease.trigger_id, "event_id": lease.event_id}
        decided, counts = await only_row(
            conn, "look_at_passed",
            {
                **parameters,
                "fingerprint": FINGERPRINT,
                "subject": [limit.subject for limit in limits],
                "within": [limit.within for limit in limits],
                "most": [limit.most for limit in limits],
            },
        )  # fmt: skip
        if decided is not None:
            return orjson.loads(decided)["refused"]
        refused = next((it.reason for it, count in zip(limits, counts, strict=True) if count >= it.most), None)
        step = Step(StepKind.FILTER, FINGERPRINT, 0, 0, orjson.dumps({"refused": refused}).decode())
        await journal_step(conn, lease.delivery_id, lease.lease_epoch, step)
        if refused is None:
            longest: dict[str, timedelta] = {}
            for limit in limits:
                longest[limit.subject] = max(limit.within, longest.get(limit.subject, limit.within))
            parameters |= {"subject": list(longest), "within": list(longest.values())}
            await conn.execute(statement("note_passed"), parameters)
        return refused


async def lock_subjects(conn: AsyncConnection[Any], subjects: Sequence[tuple[int, str]]) -> None:
    """Lock what triggers (by id) have seen of subjects, until the end of the caller's transaction."""
    trigger_ids, texts = zip(*subjects, strict=True)
    await conn.execute(statement("lock_subjects"), {"trigger_id": list(trigger_ids), "subject": list(texts)})


async def sweep_gathered(conn: AsyncConnection[Any], *, limit: int = 1000) -> tuple[int, int]:
    """Clear away what stateful filters and gathering triggers need no more.

    Returns:
        Of what there was most, how much (`limit`: call again); and how many events of batches that were never handed
        over got deliveries again.
    """
    most, delivered_again, _ = await only_row(conn, "sweep_gathered", {"limit": limit})
    return most, delivered_again

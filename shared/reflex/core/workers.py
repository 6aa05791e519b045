"""Workers as the database knows them: enlisted, beating, gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, Connection

from reflex.core.statements import statement

__all__ = ["Beat", "Incarnation", "beat", "dismiss", "enlist", "retire_triggers"]


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a worker. `worker_id` is random: a restarted container with the same host name is someone else."""

    worker_id: UUID
    app_id: int
    trigger_ids: Sequence[int]
    host: str
    pid: int
    slots: int
    schedule_ids: Sequence[int] = ()


async def enlist(conn: AsyncConnection[Any], incarnation: Incarnation) -> None:
    """From here on the worker may claim, and must beat."""
    await conn.execute(
        statement("enlist_worker"),
        {
            "worker_id": incarnation.worker_id,
            "app_id": incarnation.app_id,
            "trigger_ids": list(incarnation.trigger_ids),
            "schedule_ids": list(incarnation.schedule_ids),
            "host": incarnation.host,
            "pid": incarnation.pid,
            "slots": incarnation.slots,
        },
    )


GRACE: Final = timedelta(seconds=10)


class Beat(NamedTuple):
    """The answer to a heartbeat. `is_overdue`: a run of this worker was to be cancelled, and has not ended since."""

    is_overdue: bool


def beat(conn: Connection[Any], worker_id: UUID, *, grace: timedelta = GRACE) -> Beat | None:
    """Say that the worker lives. None: it was declared dead, and what it held is someone else's by now.

    Args:
        grace: How long a run that is cancelled may take to end.
    """
    row = conn.execute(statement("beat"), {"worker_id": worker_id, "grace": grace}).fetchone()
    return None if row is None else Beat(row[1])


async def dismiss(conn: AsyncConnection[Any], worker_id: UUID) -> None:
    """Remove a worker that stopped in good order."""
    await conn.execute(statement("dismiss_worker"), {"worker_id": worker_id})


async def retire_triggers(
    conn: AsyncConnection[Any], *, after: timedelta = timedelta(minutes=1), now: datetime | None = None
) -> list[str]:
    """Retire triggers that no living worker knows. Returns their names."""
    cursor = await conn.execute(statement("retire_triggers"), {"after": after, "now": now})
    return [row[1] for row in await cursor.fetchall()]

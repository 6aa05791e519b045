"""What a run finds that has asked: the decisions of people, and that it is too late for one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.approval_event import decided_event
from reflex.core.approvals import Decision, found
from reflex.core.lanes import lock_lanes
from reflex.core.log import append
from reflex.core.statements import statement

__all__ = ["Answer", "read_answers"]


class Answer(NamedTuple):
    """What became of a question. `decision` None: nobody has decided yet, and there is still time.

    `edited_arguments` is JSON text. `now` is the time in the database.
    """

    digest: bytes
    decision: Decision | None
    edited_arguments: str | None
    reason: str | None
    decided_by: str | None
    created_at: datetime
    expires_at: datetime
    now: datetime


async def read_answers(conn: AsyncConnection[Any], approval_ids: Sequence[UUID]) -> dict[UUID, Answer]:
    """What people said, by the ids of approvals; those that are not stored are left out. What nobody decided in time
    is expired from here on, so that a decision that comes a moment later is refused.

    Args:
        conn: Autocommit.
    """
    answers = await stored_answers(conn, approval_ids)
    late = [id for id, answer in answers.items() if answer.decision is None and answer.expires_at <= answer.now]
    if late:
        await expire(conn, late)
        answers = await stored_answers(conn, approval_ids)
    return answers


async def stored_answers(conn: AsyncConnection[Any], approval_ids: Sequence[UUID]) -> dict[UUID, Answer]:
    cursor = await conn.execute(statement("approval_answers"), {"approval_id": list(approval_ids)})
    return {
        approval_id: Answer(digest, Decision(decision) if decision else None, *rest)
        for approval_id, digest, decision, *rest in await cursor.fetchall()
    }


async def expire(conn: AsyncConnection[Any], approval_ids: Sequence[UUID]) -> None:
    async with conn.transaction():
        rows = [await found(conn, approval_id) for approval_id in approval_ids]
        events = {row["approval_id"]: decided_event(row, decision=Decision.EXPIRED) for row in rows}
        await lock_lanes(conn, [], list(events.values()))
        cursor = await conn.execute(statement("expire_approvals"), {"approval_id": list(approval_ids)})
        if expired := [events[row[0]] for row in await cursor.fetchall()]:
            await append(conn, expired)

"""Questions to people: what a run that needs an approval brings with it when it is settled as waiting."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.events import NewEvent
from reflex.core.ids import DeliveryId
from reflex.core.statements import statement
from reflex.core.waiting import end_waits

if TYPE_CHECKING:
    from reflex.core.settlement import Settlement

__all__ = ["ApprovalRequest", "begin_approvals", "call_digest", "canonical_json"]


class ApprovalRequest(NamedTuple):
    """A tool call that somebody has to approve. `arguments` and `metadata` are JSON text.

    `fingerprint` and `occurrence` are those of the step by which the run's journal knows the question; `event` tells
    of it in the log, and goes with the settlement's published events.
    """

    approval_id: UUID
    tool: str
    tool_call_id: str
    arguments: str
    digest: bytes
    metadata: str | None
    edits_allowed: bool
    fingerprint: bytes
    occurrence: int
    created_at: datetime
    expires_at: datetime
    event: NewEvent


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: sorted members, no blanks, characters as they are.

    Raises:
        ValueError: It cannot be written as JSON in UTF-8.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode()  # a lone surrogate is a ValueError here, and not in PostgreSQL
    return text


def call_digest(tool: str, arguments: Mapping[str, Any], delivery_id: DeliveryId) -> bytes:
    """What an approval is bound to: SHA-256 of `["<tool>",<arguments>,"<delivery id>"]` in canonical JSON.

    Raises:
        ValueError: The arguments cannot be written as JSON.
    """
    return hashlib.sha256(canonical_json([tool, arguments, str(delivery_id)]).encode()).digest()


async def begin_approvals(conn: AsyncConnection[Any], settlements: Sequence["Settlement"]) -> None:
    """Store what these settlements ask for. Those whose questions were answered while their runs ended are due again.

    Args:
        conn: In the transaction that settled them, after `begin_waits`. It may hold locks on lanes: all who lock an
            approval lock lanes before.
    """
    asked = [(s, request) for s in settlements if s.wait is not None for request in s.wait.asks]
    if asked:
        columns: dict[str, list[Any]] = {
            name: [getattr(request, name) for _, request in asked]
            for name in ApprovalRequest._fields
            if name != "event"
        }
        await conn.execute(
            statement("request_approvals"),
            {
                **columns,
                "trigger_id": [settlement.trigger_id for settlement, _ in asked],
                "event_id": [settlement.event_id for settlement, _ in asked],
                "lane_key": [settlement.lane_key for settlement, _ in asked],
            },
        )
    awaited = [approval_id for s in settlements if s.wait is not None for approval_id in s.wait.awaits]
    if awaited:
        cursor = await conn.execute(statement("lock_approvals"), {"approval_id": awaited})
        answered = {(trigger_id, event_id) for _, trigger_id, event_id, decided in await cursor.fetchall() if decided}
        await end_waits(conn, answered)

"""Questions to people, as runs leave them behind: for tests that need no agent."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from reflex.core.approval_waits import ApprovalRequest, call_digest, canonical_json
from reflex.core.approvals import ApprovalRow, get_approval
from reflex.core.ids import new_id
from reflex.core.journal import Step, StepKind, journal_step
from reflex.core.queue import exchange
from reflex.core.registration import Registered
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.core.statements import only_row
from reflex.core.waiting import Wait, WaitKind
from tests.queue_fixtures import claim, claim_ordered, enlisted, new_event, publish, settled, shop

__all__ = ["REFUND", "Asked", "ask", "asking", "leased", "settle"]

REFUND = {"order": "A1", "cents": 4200}


@dataclass(frozen=True, slots=True)
class Asked:
    """One delivery that waits for one approval."""

    registered: Registered
    worker_id: UUID
    lease: Claimed
    row: ApprovalRow

    @property
    def key(self) -> tuple[int, UUID]:
        return self.lease.trigger_id, self.lease.event_id


async def leased(conn: AsyncConnection[Any], registered: Registered, worker_id: UUID) -> Claimed:
    (lease,) = await claim(conn, worker_id, list(registered.trigger_ids.values()))
    return lease


async def asking(
    conn: AsyncConnection[Any],
    lease: Claimed,
    *,
    tool: str = "refund",
    arguments: dict[str, Any] = REFUND,
    edits: bool = False,
    lasts: timedelta = timedelta(days=7),
) -> Settlement:
    """The settlement of a run that asks, whose journal knows the question already."""
    (now,) = await only_row(conn, "clock")
    approval_id = new_id()
    result = orjson.dumps({"approval": str(approval_id)}).decode()
    step = Step(StepKind.WAIT, approval_id.bytes, 0, 0, result)
    await journal_step(conn, lease.delivery_id, lease.lease_epoch, step)
    event = new_event("approval.requested", orjson.dumps({"approval_id": str(approval_id)}).decode(), key=lease.key)
    request = ApprovalRequest(
        approval_id, tool, "call-1", canonical_json(arguments), call_digest(tool, arguments, lease.delivery_id), None,
        edits, step.fingerprint, 0, now, now + lasts, event,
    )  # fmt: skip
    wait = Wait(WaitKind.APPROVAL, f"somebody has to approve {tool}", max(lasts, timedelta(0)), asks=(request,))
    return waiting(lease, wait)._replace(published=(event,))


def waiting(lease: Claimed, wait: Wait) -> Settlement:
    return settled(lease)._replace(outcome=Outcome.WAITING, retry_in=wait.at_most, wait=wait)


async def settle(conn: AsyncConnection[Any], worker_id: UUID, settlement: Settlement) -> None:
    done = await exchange(conn, worker_id=worker_id, settlements=[settlement], trigger_ids=[], limit=0)
    assert not done.stale


async def ask(conn: AsyncConnection[Any], registered: Registered | None = None, **options: Any) -> Asked:
    """An event came, its run asked, and waits."""
    ordered = registered is not None
    registered = registered or await shop(conn)
    worker_id = await enlisted(conn, registered)
    await publish(conn)
    if ordered:
        (lease,) = await claim_ordered(conn, worker_id, registered)
    else:
        lease = await leased(conn, registered, worker_id)
    settlement = await asking(conn, lease, **options)
    await settle(conn, worker_id, settlement)
    assert settlement.wait
    row = await get_approval(conn, settlement.wait.asks[0].approval_id)
    return Asked(registered, worker_id, lease, row)

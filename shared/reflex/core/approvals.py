"""Approvals: a tool call that waits until a person says whether it may be made.

    asked ──decide──► approved or denied        asked ──its time is over──► expired
                                                asked ──its run is over──► void: nobody waits for the answer

A decision, the event that tells of it and the end of the wait are one commit. Of all who touch an approval each locks
lanes first, then the approval.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from reflex.core.approval_event import decided_event
from reflex.core.approval_waits import canonical_json
from reflex.core.database import STANDSTILL
from reflex.core.errors import Conflict, EventRejected, NotFound, ReflexError
from reflex.core.ids import DeliveryId
from reflex.core.lanes import InLane, lock_lanes
from reflex.core.log import append
from reflex.core.pages import DEFAULT_LIMIT, Page, QueryRejected, check_limit, cut, decode_cursor, encode_cursor
from reflex.core.reads import fetch
from reflex.core.restriction import UNRESTRICTED, Restriction
from reflex.core.rows import JsonObject, stored_json
from reflex.core.statements import statement
from reflex.core.waiting import end_waits

__all__ = [
    "AlreadyDecided",
    "ApprovalOver",
    "ApprovalRow",
    "Decision",
    "DecisionRejected",
    "DigestDiffers",
    "decide_approval",
    "found",
    "get_approval",
    "list_approvals",
]

LONGEST_REASON: Final = 2_000
LONGEST_NAME: Final = 200


class Decision(StrEnum):
    """What became of a question. Stored; never renamed."""

    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """A tool call that somebody has to approve, or had to.

    `digest` is what a decision has to name: SHA-256 of tool, arguments and delivery, in hexadecimal. `metadata` is what
    the tool itself said with its question. `edited_arguments` are those with which it was approved, if they are others.
    A `void` one is of a run that does not wait for the answer any more.
    """

    id: UUID
    delivery_id: str
    event_id: UUID
    trigger: str
    app: str
    tool: str
    tool_call_id: str
    arguments: JsonObject
    digest: str
    metadata: JsonObject | None
    edits_allowed: bool
    state: Literal["pending", "approved", "denied", "expired", "void"]
    created_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    edited_arguments: JsonObject | None
    reason: str | None


class DecisionRejected(EventRejected):
    """A decision that cannot be taken as it was given; `field` names what is wrong with it."""

    code: ClassVar[str] = "decision_rejected"


class DigestDiffers(Conflict):
    """What the person looked at is not what would run."""

    code = "digest_differs"


class AlreadyDecided(Conflict):
    """Somebody was faster; `approval` has the first decision, which stands."""

    code = "already_decided"

    def __init__(self, approval: ApprovalRow) -> None:
        by = f" by {approval.decided_by}" if approval.decided_by else ""
        super().__init__(f"approval {approval.id} was {approval.state} already{by}; that decision stands")
        self.approval = approval


class ApprovalOver(ReflexError):
    """Nobody waits for the decision any more."""

    code = "approval_over"


async def list_approvals(
    conn: AsyncConnection[Any],
    *,
    state: Literal["pending", "decided"] | None = None,
    trigger: str | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    within: Restriction = UNRESTRICTED,
) -> Page[ApprovalRow]:
    """A page of approvals, the newest first.

    Args:
        state: `pending` are those that somebody can decide now; `decided` were approved, denied, or have expired.

    Raises:
        QueryRejected: A state, cursor or limit that makes no sense.
    """
    if state not in (None, "pending", "decided"):
        raise QueryRejected(f"is {str(state)[:80]!r}; it must be pending or decided", field="state")
    check_limit(limit)
    before = UUID(bytes=decode_cursor(cursor, size=16)) if cursor else None
    found = await find(conn, state=state, trigger=trigger, before_id=before, limit=limit + 1, within=within)
    rows, last = cut([approval_row(row) for row in found], limit)
    return Page(rows, encode_cursor(last.id.bytes) if last else None)


async def get_approval(
    conn: AsyncConnection[Any], approval_id: UUID, *, within: Restriction = UNRESTRICTED
) -> ApprovalRow:
    """One approval. Raises NotFound if there is none with this id."""
    return approval_row(await found(conn, approval_id, within))


async def decide_approval(
    conn: AsyncConnection[Any],
    approval_id: UUID,
    *,
    approve: bool,
    digest: str,
    arguments: Mapping[str, Any] | None = None,
    reason: str | None = None,
    by: str | None = None,
    within: Restriction = UNRESTRICTED,
) -> ApprovalRow:
    """Approve or deny a call, and wake the delivery that waits. Of several at once the first one counts.

    Args:
        conn: Autocommit.
        digest: That of the approval as the person saw it, in hexadecimal.
        arguments: Make the call with these instead, if its trigger allows it.
        by: Who decides. Not checked.

    Raises:
        NotFound: There is no such approval.
        AlreadyDecided: Somebody has decided before.
        ApprovalOver: It has expired, or its run is over.
        DigestDiffers: The digest is another one.
        DecisionRejected: Arguments were given where they must not be, or a text is too long.
    """
    decision = Decision.APPROVED if approve else Decision.DENIED
    for field, text, most in (("/reason", reason, LONGEST_REASON), ("/by", by, LONGEST_NAME)):
        if text is not None and len(text) > most:
            raise DecisionRejected(f"is longer than {most} characters", field=field)
    async with conn.transaction():
        row = await found(conn, approval_id, within)
        check_open(row)
        if digest.lower() != row["digest"]:
            raise DigestDiffers(
                f"the digest is not that of approval {approval_id}: look at it again, and decide with the digest "
                "that is shown there"
            )
        edited = edited_arguments(row, arguments, approve=approve)
        event = decided_event(row, decision=decision, edited=edited, reason=reason, by=by)
        lane = [InLane(row["trigger_id"], row["lane_key"])] if row["lane_key"] is not None else []
        await lock_lanes(conn, lane, [event])
        for in_lane in lane:  # lock_lanes locks it only together with others
            await conn.execute(statement("lock_lane"), {**in_lane._asdict(), "standstill": STANDSTILL})
        cursor = await conn.execute(
            statement("decide_approval"),
            {
                "approval_id": approval_id,
                "decision": decision,
                "decided_by": by,
                "edited_arguments": edited,
                "reason": reason,
                "digest": row["digest"],
            },
        )
        kept = await cursor.fetchone() is not None
        now_there = await found(conn, approval_id)
        if not kept:
            check_open(now_there)
            raise ApprovalOver(f"approval {approval_id} changed at this moment; look at it again")
        await append(conn, [event])
        await end_waits(conn, {(row["trigger_id"], row["event_id"])})
    return approval_row(now_there)


def check_open(row: DictRow) -> None:
    """Raises AlreadyDecided or ApprovalOver unless somebody waits for a decision."""
    match row["state"]:
        case "approved" | "denied":
            raise AlreadyDecided(approval_row(row))
        case "expired":
            raise ApprovalOver(
                f"approval {row['approval_id']} expired at {row['expires_at']:%Y-%m-%d %H:%M:%S%z}: the call counts as "
                "denied"
            )
        case "void":
            raise ApprovalOver(
                f"approval {row['approval_id']} is void: the run that asked does not wait for it any more"
            )
        case _:
            return


def edited_arguments(row: DictRow, arguments: Mapping[str, Any] | None, *, approve: bool) -> str | None:
    if arguments is None:
        return None
    if not approve:
        raise DecisionRejected("are for a decision to approve", field="/arguments")
    if not row["edits_allowed"]:
        raise DecisionRejected(
            f"must be left out: trigger {row['trigger']!r} does not allow edits (approval_edits=True would)",
            field="/arguments",
        )
    try:
        return canonical_json(dict(arguments))
    except ValueError as error:
        raise DecisionRejected(f"cannot be written as JSON: {error}", field="/arguments") from None


async def found(conn: AsyncConnection[Any], approval_id: UUID, within: Restriction = UNRESTRICTED) -> DictRow:
    rows = await find(conn, approval_id=approval_id, limit=1, within=within)
    if not rows:
        raise NotFound(f"there is no approval {approval_id}")
    return rows[0]


async def find(
    conn: AsyncConnection[Any],
    *,
    approval_id: UUID | None = None,
    before_id: UUID | None = None,
    trigger: str | None = None,
    state: str | None = None,
    limit: int,
    within: Restriction = UNRESTRICTED,
) -> list[DictRow]:
    return await fetch(
        conn,
        "list_approvals",
        {
            **within.parameters(),
            "approval_id": approval_id,
            "before_id": before_id,
            "trigger": trigger,
            "pending": state == "pending",
            "decided": state == "decided",
            "limit": limit,
        },
    )


def approval_row(row: DictRow) -> ApprovalRow:
    names = ("event_id", "trigger", "app", "tool", "tool_call_id", "digest", "edits_allowed", "state", "created_at",
             "expires_at", "decided_at", "decided_by", "reason")  # fmt: skip
    return ApprovalRow(
        id=row["approval_id"],
        delivery_id=str(DeliveryId(row["trigger_id"], row["event_id"])),
        arguments=stored_json(row["arguments"]),
        metadata=stored_json(row["metadata"]),
        edited_arguments=stored_json(row["edited_arguments"]),
        **{name: row[name] for name in names},
    )

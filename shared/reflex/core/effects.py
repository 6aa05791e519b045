"""The effects of which nobody knows whether they happened: calls of tools that must not be repeated, begun by a run
that did not come to record their end. They are listed here, and a person's verdict lets their deliveries go on.

    intent ──the run records the end──► effect (a step like others)
      │
      └─ the run is gone ─► unknown ──a probe, or a person──► effect, or no intent any more

The document in a step's `result` is JSON: `tool`, `arguments`, `key` (the idempotency key), `call` (the fingerprint of
the call, in hexadecimal), `since` and `why` once it is unknown, and how it ended: `record`, the worker's, or
`verdict`, a person's.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Self
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.database import brief_transaction
from reflex.core.errors import Conflict, NotFound
from reflex.core.ids import DeliveryId
from reflex.core.pages import DEFAULT_LIMIT, Page, QueryRejected, check_limit, cut, decode_cursor, encode_cursor
from reflex.core.reads import fetch
from reflex.core.restriction import UNRESTRICTED, Restriction
from reflex.core.rows import Json, StoredJson
from reflex.core.statements import only_row, statement
from reflex.core.waiting import end_waits

__all__ = ["EFFECT_STATES", "DeliveryRunning", "EffectId", "EffectRow", "Resolved", "list_effects", "resolve_effect"]

EffectState = Literal["unknown", "running"]
EFFECT_STATES: Final = ("unknown", "running")


class DeliveryRunning(Conflict):
    """An attempt at the delivery is under way. It may be about to find out by itself; nothing was changed."""

    code = "delivery_running"


@dataclass(frozen=True, slots=True)
class EffectId:
    """One step of a delivery. Written `<delivery_id>.<step>`."""

    delivery_id: DeliveryId
    step: int

    def __str__(self) -> str:
        return f"{self.delivery_id}.{self.step}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str()`.

        Raises:
            ValueError: `text` is not of that form; the sentence shows what was expected.
        """
        delivery, dot, step = text.partition(".")
        # 9 digits keep it below the largest int of PostgreSQL; isdecimal() alone admits other scripts' digits.
        if not (dot and step.isascii() and step.isdecimal() and len(step) <= 9):
            raise ValueError(f"{text[:80]!r} is not the id of an effect (expected <delivery_id>.<step>)")
        return cls(DeliveryId.parse(delivery), int(step))


@dataclass(frozen=True, slots=True)
class EffectRow:
    """A call of a tool that must not be repeated, and that has no end yet.

    `running`: its run is at it. `unknown`: its run ended in between. `waits` says that its delivery does nothing before
    somebody resolves it. `key` is what the tool was given as its idempotency key. `type` and `event_key` are those of
    its event, null if that is gone.
    """

    id: str
    delivery_id: str
    step: int
    state: EffectState
    trigger: str
    app: str
    event_id: UUID
    type: str | None
    event_key: str | None
    tool: str
    arguments: Json
    key: str
    reason: str | None
    begun_at: datetime
    waits: bool


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of the delivery: `due` if it goes on at once; else it waits for something else, is dead, or over."""

    id: str
    done: bool
    due: bool


async def list_effects(
    conn: AsyncConnection[Any],
    *,
    state: EffectState | None = None,
    trigger: str | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    within: Restriction = UNRESTRICTED,
) -> Page[EffectRow]:
    """A page of the calls that have no recorded end, those of the latest event first.

    Raises:
        QueryRejected: A state, cursor or limit that makes no sense.
    """
    if state not in (None, *EFFECT_STATES):
        raise QueryRejected(f"is {state!r}; it must be one of {', '.join(EFFECT_STATES)}", field="state")
    check_limit(limit)
    after = decode_position(cursor) if cursor else None
    rows = await fetch(
        conn,
        "list_effects",
        {
            **within.parameters(),
            "at_work": None if state is None else state == "running",
            "trigger": trigger,
            "after_event_id": after.delivery_id.event_id if after else None,
            "after_trigger_id": after.delivery_id.trigger_id if after else None,
            "after_position": after.step if after else None,
            "limit": limit + 1,
        },
    )
    page, last = cut([effect_row(row) for row in rows], limit)
    return Page(page, encode_position(EffectId.parse(last.id)) if last else None)


async def resolve_effect(
    conn: AsyncConnection[Any], effect_id: EffectId, *, done: StoredJson | None, within: Restriction = UNRESTRICTED
) -> Resolved:
    """Say how an unknown effect ended, and make its delivery due if it waits for that.

    Args:
        conn: Autocommit; it is one transaction.
        done: What the tool would have returned, as JSON; None: it did not do its work, and is to be called.

    Raises:
        NotFound: There is no such effect, or it is known by now.
        DeliveryRunning: An attempt is under way.
    """
    delivery_id = effect_id.delivery_id
    ids = {"trigger_id": delivery_id.trigger_id, "event_id": delivery_id.event_id}
    async with brief_transaction(conn):
        found = await fetch(conn, "lock_intent", {**ids, "position": effect_id.step})
        if not found or not await within.shows(conn, delivery_id.event_id):
            raise NotFound(
                f"there is no unknown effect {effect_id}; if there was one, it was resolved meanwhile "
                f"(`reflex effects list` shows those that there are)"
            )
        # In a statement of its own: it has to see what was committed while this one waited for the row.
        running, ahead = await only_row(conn, "find_delivery", ids)
        if running:
            raise DeliveryRunning(
                f"delivery {delivery_id} is being worked on, or its worker was lost some seconds ago; wait until it "
                f"stands still (GET /events/{delivery_id.event_id} shows it), and look whether this is still unknown"
            )
        step = {**ids, "fingerprint": found[0]["fingerprint"], "occurrence": found[0]["occurrence"]}
        if done is not None and ahead:
            document = with_verdict(found[0]["document"], done.text)
            await conn.execute(statement("resolve_intent"), {**step, "document": document})
        else:
            await conn.execute(statement("drop_intent"), step)
        woken = await end_waits(conn, {(delivery_id.trigger_id, delivery_id.event_id)})
    return Resolved(str(effect_id), done is not None, bool(woken))


def with_verdict(document: str, result: str) -> str:
    # Put in as text: a number that is too large for a parser stays what it is.
    return f'{document.rstrip().removesuffix("}")},"verdict":{{"value":{result}}}}}'


def effect_row(row: dict[str, Any]) -> EffectRow:
    document: dict[str, Any] = json.loads(row["document"])
    delivery_id = DeliveryId(row["trigger_id"], row["event_id"])
    return EffectRow(
        id=str(EffectId(delivery_id, row["position"])),
        delivery_id=str(delivery_id),
        step=row["position"],
        state="running" if row["at_work"] else "unknown",
        trigger=row["trigger"],
        app=row["app"],
        event_id=row["event_id"],
        type=row["type"],
        event_key=row["key"],
        tool=document["tool"],
        arguments=StoredJson(json.dumps(document["arguments"])),
        key=document["key"],
        reason=document.get("why"),
        begun_at=row["begun_at"],
        waits=row["waits"],
    )


def encode_position(effect_id: EffectId) -> str:
    delivery_id = effect_id.delivery_id
    numbers = (delivery_id.trigger_id, effect_id.step)
    return encode_cursor(delivery_id.event_id.bytes + b"".join(number.to_bytes(4, "big") for number in numbers))


def decode_position(cursor: str) -> EffectId:
    position = decode_cursor(cursor, size=24)
    trigger_id, step = int.from_bytes(position[16:20], "big"), int.from_bytes(position[20:], "big")
    if max(trigger_id, step) >= 2**31:
        raise QueryRejected(f"{cursor!r} is not a cursor of this listing", field="cursor")
    return EffectId(DeliveryId(trigger_id, UUID(bytes=position[:16])), step)

"""Gathering: what becomes of deliveries whose events are kept for a run to come. Decided where they are settled, in the
same transaction: an event is in a batch if, and only if, the settlement of its delivery holds.

    settled to gather ──its lease held──► kept, and skipped ──or the first of a batch──► waits, to hand it over
                                                            ──or the one that crosses a threshold──► due at once
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from reflex.core.batches import Gathering
from reflex.core.ids import DeliveryId
from reflex.core.passing import lock_subjects
from reflex.core.settlement import Outcome, Settlement
from reflex.core.statements import statement
from reflex.core.waiting import Wait, WaitKind

__all__ = ["Nearby", "crossed", "gather", "spans"]

Key = tuple[int, UUID]
Subject = tuple[int, str]
# Deliveries are worked off in about the order of the log: what is kept of a window is kept somewhat longer than it has
# an influence on events that come in order.
LATE: Final = timedelta(minutes=1)
# Between two events of one exchange that are farther apart, what is not near one of them is not read.
GAP: Final = timedelta(seconds=10)
AT_ONCE: Final = timedelta(0)


@dataclass(slots=True, order=True)
class Nearby:
    """An event of a window. `fired`: a run has it, or one of the events that came with it."""

    accepted_at: datetime
    event_id: UUID
    fired: bool = field(default=False, compare=False)


class Held(NamedTuple):
    """A delivery that keeps its lease until the end of the transaction."""

    accepted_at: datetime
    is_gathered: bool
    batch_id: UUID | None


@dataclass(slots=True)
class OpenBatch:
    event_id: UUID
    events: int
    sealed: bool = False


@dataclass(slots=True)
class Writing:
    """What is to be written: batches (trigger, event, subject, events, sealed, due in) and events kept (event, trigger,
    subject, accepted, batch, fired, for how long)."""

    batches: list[tuple[int, UUID, str, int, bool, timedelta]] = field(
        default_factory=list[tuple[int, UUID, str, int, bool, timedelta]]
    )
    kept: dict[Key, tuple[UUID, int, str, datetime, UUID | None, bool, timedelta | None]] = field(
        default_factory=dict[Key, tuple[UUID, int, str, datetime, UUID | None, bool, timedelta | None]]
    )
    due: list[Key] = field(default_factory=list[Key])


async def gather(
    conn: AsyncConnection[Any], settlements: Sequence[Settlement]
) -> tuple[Sequence[Settlement], Sequence[Key]]:
    """Keep the events of settlements that gather.

    Args:
        conn: In the transaction that is about to settle them.

    Returns:
        The settlements as they are to be settled; and the deliveries (trigger id, event id) whose batches are full.
        They wait, and are to be made due after the settling.
    """
    gathering = [(settlement, settlement.gathers) for settlement in settlements if settlement.gathers is not None]
    if not gathering:
        return settlements, ()
    await lock_subjects(conn, [(settlement.trigger_id, terms.subject) for settlement, terms in gathering])
    held = await look_at_leases(conn, [settlement for settlement, _ in gathering])
    groups: dict[Subject, list[tuple[Settlement, Gathering]]] = {}
    ends: dict[Key, Settlement] = {}
    for settlement, terms in sorted(gathering, key=lambda each: in_order(each[0], held)):
        key = settlement[:2]
        if key not in held:
            continue  # settled too late, which the settling itself will find
        if held[key].is_gathered:
            ends[key] = gathered_before(settlement, held[key].batch_id)
        else:
            groups.setdefault((settlement.trigger_id, terms.subject), []).append((settlement, terms))
    writing = Writing()
    batching = [subject for subject, members in groups.items() if members[0][1].max_interval is not None]
    batches = await open_batches(conn, batching, writing)
    nearby = await gathered_nearby(conn, groups, held)
    for subject, members in groups.items():
        for settlement, terms in members:
            if terms.max_interval is not None:
                end = into_batch(settlement, terms, terms.max_interval, held[settlement[:2]], batches, writing)
            else:
                end = into_window(settlement, terms, held[settlement[:2]], nearby[subject], writing)
            ends[settlement[:2]] = end
    for (trigger_id, subject), batch in batches.items():
        due_in = groups[trigger_id, subject][0][1].max_interval or AT_ONCE
        writing.batches.append((trigger_id, batch.event_id, subject, batch.events, False, due_in))
    await write(conn, writing)
    return [ends.get(s[:2], s) if s.gathers is not None else s for s in settlements], writing.due


def in_order(settlement: Settlement, held: dict[Key, Held]) -> tuple[bool, datetime | None, UUID]:
    found = held.get(settlement[:2])
    return found is None, found and found.accepted_at, settlement.event_id


def into_batch(
    settlement: Settlement,
    terms: Gathering,
    max_interval: timedelta,
    held: Held,
    batches: dict[Subject, OpenBatch],
    writing: Writing,
) -> Settlement:
    """Add an event to the open batch of its subject, or begin one with it."""
    trigger_id, event_id = settlement[:2]
    batch = batches.get((trigger_id, terms.subject))
    if batch is None:
        batch = batches[trigger_id, terms.subject] = OpenBatch(event_id, 0)
        reason = f"gathers {terms.enough} events, for {max_interval} at most"
        end = waiting(settlement, max_interval, reason)
    else:
        end = kept_by(settlement, batch.event_id)
    batch.events += 1
    writing.kept[settlement[:2]] = (
        event_id, trigger_id, terms.subject, held.accepted_at, batch.event_id, False, None
    )  # fmt: skip
    if batch.events >= terms.enough:
        del batches[trigger_id, terms.subject]
        writing.batches.append((trigger_id, batch.event_id, terms.subject, batch.events, True, max_interval))
        writing.due.append((trigger_id, batch.event_id))
    return end


def into_window(
    settlement: Settlement, terms: Gathering, held: Held, nearby: list[Nearby], writing: Writing
) -> Settlement:
    """Add an event to what has come, and see whether there are enough by now."""
    trigger_id, event_id = settlement[:2]
    within = terms.within or AT_ONCE
    event = Nearby(held.accepted_at, event_id)
    insort(nearby, event)
    together = crossed(nearby, event, count=terms.enough, within=within)
    fires = bool(together) and not any(each.fired for each in together)
    for each in together or [event]:
        if each.fired and not fires:
            continue  # and is written as that already
        each.fired = bool(together)
        writing.kept[trigger_id, each.event_id] = (
            each.event_id, trigger_id, terms.subject, each.accepted_at, event_id if fires else None, each.fired,
            2 * within + LATE,
        )  # fmt: skip
    if fires:
        writing.batches.append((trigger_id, event_id, terms.subject, len(together), True, AT_ONCE))
        writing.due.append((trigger_id, event_id))
        return waiting(settlement, AT_ONCE, f"{len(together)} events within {within}")
    if together:
        return settlement._replace(error=f"gathered: {terms.enough} within {within}, for which a run was begun before")
    return settlement._replace(error=f"gathered: fewer than {terms.enough} within {within} so far")


def crossed(nearby: Sequence[Nearby], event: Nearby, *, count: int, within: timedelta) -> Sequence[Nearby]:
    """The events of all windows of that length that have so many events, this one among them; none if there is none.

    Args:
        nearby: In order, with the event.
    """
    place = bisect_left(nearby, event)
    starts = range(max(0, place - count + 1), min(place, len(nearby) - count) + 1)

    def fits(start: int) -> bool:
        return nearby[start + count - 1].accepted_at - nearby[start].accepted_at <= within

    first = next(filter(fits, starts), None)
    if first is None:
        return ()
    return nearby[first : next(filter(fits, reversed(starts))) + count]


def waiting(settlement: Settlement, at_most: timedelta, reason: str) -> Settlement:
    """The delivery goes on when its batch is there. What was to be its end is not."""
    return settlement._replace(
        outcome=Outcome.WAITING, retry_in=at_most, wait=Wait(WaitKind.TIME, reason, at_most), published=(),
        forget_steps=False,
    )  # fmt: skip


def kept_by(settlement: Settlement, batch_id: UUID, said: str = "gathered") -> Settlement:
    delivery_id = str(DeliveryId(settlement.trigger_id, batch_id))
    output = orjson.dumps({"gathered_by": delivery_id}).decode()
    return settlement._replace(error=f"{said}: handed over by delivery {delivery_id}", output=output)


def gathered_before(settlement: Settlement, batch_id: UUID | None) -> Settlement:
    """Of an event that was replayed before the run came that it was kept for."""
    if batch_id is None:
        return settlement._replace(error="gathered before, and counted then")
    return kept_by(settlement, batch_id, "gathered before")


async def look_at_leases(conn: AsyncConnection[Any], settlements: Sequence[Settlement]) -> dict[Key, Held]:
    cursor = await conn.execute(
        statement("look_at_leases"),
        {
            "trigger_id": [settlement.trigger_id for settlement in settlements],
            "event_id": [settlement.event_id for settlement in settlements],
            "lease_epoch": [settlement.lease_epoch for settlement in settlements],
        },
    )
    return {(row[0], row[1]): Held(*row[2:]) for row in await cursor.fetchall()}


async def open_batches(
    conn: AsyncConnection[Any], subjects: Sequence[Subject], writing: Writing
) -> dict[Subject, OpenBatch]:
    if not subjects:
        return {}
    trigger_ids, texts = zip(*subjects, strict=True)
    cursor = await conn.execute(statement("open_batches"), {"trigger_id": list(trigger_ids), "subject": list(texts)})
    found: dict[Subject, OpenBatch] = {}
    for trigger_id, subject, event_id, events, is_open in await cursor.fetchall():
        if is_open:
            found[trigger_id, subject] = OpenBatch(event_id, events)
        else:
            writing.batches.append((trigger_id, event_id, subject, events, True, AT_ONCE))
    return found


async def gathered_nearby(
    conn: AsyncConnection[Any], groups: dict[Subject, list[tuple[Settlement, Gathering]]], held: dict[Key, Held]
) -> dict[Subject, list[Nearby]]:
    windows = {subject: members for subject, members in groups.items() if members[0][1].within is not None}
    if not windows:
        return {}
    asked: list[tuple[int, str, datetime, datetime, timedelta | None, int]] = []
    for (trigger_id, subject), members in windows.items():
        terms = members[0][1]
        for first_at, last_at in spans([held[settlement[:2]].accepted_at for settlement, _ in members]):
            asked.append((trigger_id, subject, first_at, last_at, terms.within, terms.enough - 1))
    names = ("trigger_id", "subject", "first_at", "last_at", "within", "most")
    cursor = await conn.execute(statement("gathered_nearby"), columns(names, asked))
    found: dict[Subject, dict[UUID, Nearby]] = {subject: {} for subject in windows}
    for trigger_id, subject, accepted_at, event_id, fired in await cursor.fetchall():
        found[trigger_id, subject][event_id] = Nearby(accepted_at, event_id, fired)
    return {subject: sorted(events.values()) for subject, events in found.items()}


def spans(times: Sequence[datetime]) -> list[tuple[datetime, datetime]]:
    """From when to when these times are, in order, without the longer gaps between them: what was gathered there has
    nothing to do with any of them, and may be very much."""
    found: list[tuple[datetime, datetime]] = []
    for time in times:
        if found and time - found[-1][1] <= GAP:
            found[-1] = found[-1][0], time
        else:
            found.append((time, time))
    return found


async def write(conn: AsyncConnection[Any], writing: Writing) -> None:
    if writing.batches:
        names = ("trigger_id", "event_id", "subject", "events", "sealed", "due_in")
        await conn.execute(statement("write_batches"), columns(names, writing.batches))
    if writing.kept:
        names = ("event_id", "trigger_id", "subject", "accepted_at", "batch_id", "fired", "keep_for")
        await conn.execute(statement("write_gathered"), columns(names, writing.kept.values()))


def columns(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))

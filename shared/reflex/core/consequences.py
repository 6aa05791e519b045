"""What settlements bring with them, in the same transaction, if they hold: states, events, waits, and journals to
forget."""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.approval_waits import begin_approvals
from reflex.core.batches import end_batches
from reflex.core.journal import forget_steps
from reflex.core.log import append
from reflex.core.settlement import Outcome, Settlement, not_begun
from reflex.core.statements import statement
from reflex.core.states import hold_states, write_states
from reflex.core.waiting import begin_waits

__all__ = ["Settled", "carry_out", "forget_cancellations", "give_way", "have_consequences"]

Key = tuple[int, UUID]


class Settled(NamedTuple):
    """What did not come to pass: trigger and event of settlements that came too late to change anything, and the
    settlements whose state somebody else had changed; their deliveries were given back."""

    stale: frozenset[Key] = frozenset()
    conflicts: tuple[Settlement, ...] = ()


# After any other outcome the delivery may be attempted again, and must find what it must not repeat.
OVER: Final = frozenset({Outcome.SUCCEEDED, Outcome.SKIPPED, Outcome.CANCELLED})


def have_consequences(settlements: Sequence[Settlement]) -> bool:
    """Whether settling them needs a transaction of more than one statement."""
    return any(
        s.published or s.forget_steps or s.wait or s.state or s.with_it or s.gathers or s.hands_over
        for s in settlements
    )


async def give_way(
    conn: AsyncConnection[Any], settlements: Sequence[Settlement]
) -> tuple[Sequence[Settlement], list[Settlement]]:
    """Lock the states that the settlements change. Those that another run has changed first give their delivery back,
    and bring nothing with them; their neighbours notice nothing of it.

    Args:
        conn: In the transaction that is about to settle them.

    Returns:
        The settlements as they are to be settled, and those that gave way, as they were.
    """
    changing = [(s, s.state) for s in settlements if s.state is not None]
    if not changing:
        return settlements, []
    # Of two runs of one key that have finished at the same time, the second has not seen what the first one did.
    first = {(s.trigger_id, change.key): (s, change) for s, change in reversed(changing)}
    held = await hold_states(conn, [(s.trigger_id, change) for s, change in first.values()])
    winners = {first[state_id][0][:2] for state_id in held}
    late = {s[:2]: s for s, _ in changing if s[:2] not in winners}
    return [given_back(s) if s[:2] in late else s for s in settlements], list(late.values())


def given_back(settlement: Settlement) -> Settlement:
    """Of a run whose state somebody else has changed. It has used up no attempt, and its journal stays."""
    key = settlement.state.key if settlement.state is not None else ""
    return settlement._replace(
        outcome=Outcome.RELEASED, error=f"another run changed what is remembered of {key!r} first", output=None,
        published=(), forget_steps=False, state=None, with_it=tuple(map(not_begun, settlement.with_it)),
    )  # fmt: skip


async def carry_out(
    conn: AsyncConnection[Any], settlements: Sequence[Settlement], stale: Collection[tuple[int, UUID]]
) -> None:
    """Write states, append what the runs published, keep their waits and forget their journals, but for settlements
    that came too late.

    Args:
        conn: In the transaction that settled them.
        stale: Trigger and event of those that changed nothing.
    """
    held = [settlement for settlement in settlements if (settlement.trigger_id, settlement.event_id) not in stale]
    if changes := [(s.trigger_id, s.state, s[:2] not in stale) for s in settlements if s.state is not None]:
        await write_states(conn, changes)
    if events := [event for settlement in held for event in settlement.published]:
        await append(conn, events)
    if forgotten := [(s.trigger_id, s.event_id, s.outcome in OVER) for s in held if s.forget_steps]:
        await forget_steps(conn, forgotten)
    if handed_over := [s for s in held if s.hands_over and s.outcome in OVER]:
        await end_batches(conn, handed_over)
    if cancelled := [(s.trigger_id, s.event_id) for s in held if s.outcome is Outcome.CANCELLED]:
        await forget_cancellations(conn, cancelled)
    if waits := [settlement for settlement in held if settlement.wait is not None]:
        await begin_waits(conn, waits)
        await begin_approvals(conn, waits)


async def forget_cancellations(conn: AsyncConnection[Any], deliveries: Collection[tuple[int, UUID]]) -> None:
    """These deliveries (trigger id, event id) have ended."""
    trigger_ids, event_ids = zip(*deliveries, strict=True)
    parameters = {"trigger_id": list(trigger_ids), "event_id": list(event_ids)}
    await conn.execute(statement("forget_cancellations"), parameters)

"""One run's view of the budgets of its trigger: what it may spend, and what becomes of it when it may not.

Knows nothing of pydantic-ai: `budgeting` puts it around an agent's model and tools.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, NoReturn

import structlog
from psycopg import AsyncConnection

from reflex.agent.budgets import UNITS, Budget, shown
from reflex.agent.ordering import OWN_KEY
from reflex.agent.suspension import suspend
from reflex.core.errors import ReflexError
from reflex.core.ids import DeliveryId
from reflex.core.journal import StepStore
from reflex.core.settlement import Claimed
from reflex.core.spending import (
    ANY_TRIGGER,
    Asked,
    Quantity,
    Refused,
    Reservation,
    Scope,
    reserve,
    settle_spend,
)
from reflex.core.waiting import Wait, WaitKind

__all__ = ["BudgetUsedUp", "Costs", "Spending"]

Costs = Mapping[Quantity, Decimal]

# Where only calls in flight are in the way, a run waits for them in its slot at first: most take seconds.
PATIENCE_S: Final = 5.0
# Then it gives the slot back for so long.
HELD_S: Final = (2.0, 10.0)
# A parked delivery looks again after this even if its window is not over: with new code it may be allowed more.
LONGEST: Final = timedelta(hours=1)
# Deliveries that are parked until the same moment come back spread over a part of the window, and of a minute at most.
SPREAD: Final = 0.05
LONGEST_SPREAD: Final = timedelta(minutes=1)


class BudgetUsedUp(ReflexError):
    """A budget with `when_spent="dead"` has no room for what the run would do next."""

    code = "budget"


class Spending:
    """What one run may spend.

    Attributes:
        largest_response: Output tokens of the largest response so far; 0 if there was none.
    """

    def __init__(
        self, store: StepStore, claimed: Claimed, trigger: str, budgets: Sequence[Budget], key_path: str = OWN_KEY
    ) -> None:
        """`key_path` is where the trigger's events have the key that a budget per key is for."""
        self.budgets = budgets
        self.trigger = trigger
        self.largest_response = 0
        self._store = store
        self._claimed = claimed
        self._delivery_id = DeliveryId(claimed.trigger_id, claimed.event_id)
        self._key_path = key_path
        # None: to be looked up. Events without a key share one: else they would be without a limit.
        self._key = claimed.key or "" if key_path == OWN_KEY else claimed.lane_key
        self._left_over: list[Reservation] = []

    def counts(self, *quantities: Quantity) -> bool:
        """Whether any budget is of one of these quantities."""
        return any(budget.quantity in quantities for budget in self.budgets)

    async def reserve(self, costs: Costs, *, force: bool = False, around: int = 0) -> Reservation:
        """Set aside what a call may cost, in every budget of one of its quantities; there must be one.

        Args:
            around: How many tool calls this one is made inside of. They end after it, so it does not wait for them.

        Raises:
            Suspended: A budget has no room; the delivery is parked.
            BudgetUsedUp: The same, of a budget with `when_spent="dead"`.
            LeaseLost: Another worker has the delivery. The run must stop.
            JournalUnavailable: The database was away for too long.
        """
        chosen = [budget for budget in self.budgets if budget.quantity in costs]
        if self._key is None and any(budget.scope is Scope.KEY for budget in chosen):
            self._key = (await self._store.remembered(self._delivery_id, self._key_path)).key or ""
        asked = [self.asked(budget, costs[budget.quantity]) for budget in chosen]
        while self._left_over:
            await self.give_back(self._left_over.pop())
        deadline = time.monotonic() + PATIENCE_S
        wait_s = 0.2
        while True:
            # A second try after a broken connection makes a second reservation; the first one goes with the lease.
            answer = await self._store.patiently(
                lambda conn: reserve(conn, self._delivery_id, self._claimed.lease_epoch, asked, force=force)
            )
            if isinstance(answer, Reservation):
                return answer
            answer = [refused._replace(spent=refused.spent + around, reserved=refused.reserved - around)
                      for refused in answer]  # fmt: skip
            used_up = [refused for refused in answer if refused.is_used_up]
            if used_up or time.monotonic() >= deadline:
                self.park([(chosen[refused.asked], refused) for refused in used_up or answer])
            await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
            wait_s = min(wait_s * 1.5, 1)

    async def settle(self, reservation: Reservation, costs: Costs) -> None:
        """Count what the call has cost; nothing, if it failed.

        Raises:
            JournalUnavailable: The database was away for too long.
        """
        await self._store.patiently(settling(reservation, costs))

    async def give_back(self, reservation: Reservation) -> None:
        """The call failed. If the database is away the reservation ends with the lease: the failure is what counts."""
        try:
            await self.settle(reservation, {})
        except ReflexError as error:
            structlog.get_logger("reflex.agent").warning("a reservation is given back later", error=str(error))

    def give_back_later(self, reservation: Reservation) -> None:
        """The call was cancelled, and there is no time. If the run goes on (the author's own time limit for a part of
        it), its next call must not wait for this one: nobody else would end it before the lease does."""
        self._left_over.append(reservation)

    def asked(self, budget: Budget, amount: Decimal) -> Asked:
        claimed = self._claimed
        subject = {
            Scope.RUN: str(claimed.event_id),
            Scope.TRIGGER: "",
            Scope.KEY: self._key or "",
            Scope.TREE: claimed.correlation_id or str(claimed.event_id),
        }[budget.scope]
        owner = ANY_TRIGGER if budget.scope is Scope.TREE else claimed.trigger_id
        return Asked(
            owner, budget.scope, subject, budget.quantity, budget.period, budget.zone, budget.window, amount,
            budget.allowed,
        )  # fmt: skip

    def park(self, refused: Sequence[tuple[Budget, Refused]]) -> NoReturn:
        """Until all of them may have room."""
        for budget, one in refused:
            if budget.when_spent == "dead" and one.is_used_up:
                raise BudgetUsedUp(self.reason(budget, one))
        waits = [(wait_of(budget, one), self.reason(budget, one)) for budget, one in refused]
        at_most, reason = max(waits)
        suspend(Wait(WaitKind.BUDGET, reason, at_most))

    def reason(self, budget: Budget, refused: Refused) -> str:
        unit = UNITS[budget.quantity]
        whose = "of the tree" if budget.scope is Scope.TREE else f"of trigger {self.trigger!r}"
        raised = refused.total - budget.allowed
        more = f" (raised by {shown(raised)})" if raised else ""
        if not refused.is_used_up:
            return (
                f"the budget of {budget} {whose}{more} is set aside for calls in flight: {shown(refused.spent)} {unit} "
                f"spent, {shown(refused.reserved)} set aside; looks again in seconds"
            )
        left = "" if refused.spent >= refused.total else f", and the next call may take {shown(refused.amount)}"
        until = (
            f"opens at {refused.opens_at.isoformat(timespec='seconds')}" if refused.opens_at is not None
            else f"a person can raise it: reflex budgets raise {refused.spend_id} AMOUNT"
        )  # fmt: skip
        return f"the budget of {budget} {whose}{more} is used up: {shown(refused.spent)} {unit} spent{left}; {until}"


def wait_of(budget: Budget, refused: Refused) -> timedelta:
    """How long a delivery is parked, with jitter."""
    if not refused.is_used_up:
        held = timedelta(seconds=random.uniform(*HELD_S))  # noqa: S311 (jitter)
        return held if refused.opens_at is None else min(held, until_open(budget, refused))
    return min(LONGEST + jitter(LONGEST), until_open(budget, refused))


def until_open(budget: Budget, refused: Refused) -> timedelta:
    if refused.opens_at is None:
        return timedelta.max
    return refused.opens_at - refused.at + jitter(budget.window or timedelta(days=1))


def jitter(window: timedelta) -> timedelta:
    return min(window * SPREAD, LONGEST_SPREAD) * random.random()  # noqa: S311 (jitter)


def settling(reservation: Reservation, costs: Costs) -> Callable[[AsyncConnection[Any]], Awaitable[None]]:
    """What counts the costs, once, however often the connection breaks."""
    tried = False

    async def action(conn: AsyncConnection[Any]) -> None:
        nonlocal tried
        again, tried = tried, True
        await settle_spend(conn, reservation, costs, again=again)

    return action

"""What may still be spent: budgets, reserved from before a call and settled after it.

    reserve ──the call──► settle ──► spent
       └─the lease is gone──► given back

A budget's row has what is spent and what is set aside for calls that are in flight; a call is granted in all the
budgets that apply to it or in none. So what is spent never exceeds a budget by more than the calls in flight were
underestimated.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.ids import DeliveryId, new_id
from reflex.core.journal import LeaseLost
from reflex.core.statements import only_row, statement

__all__ = [
    "ANY_TRIGGER",
    "Asked",
    "Quantity",
    "Refused",
    "Reservation",
    "Scope",
    "Share",
    "forget_spend",
    "give_back",
    "reserve",
    "settle_spend",
]

# The owner of a budget that all triggers share, such as that of a tree.
ANY_TRIGGER: Final = 0
# A window may turn between the two statements, but not again and again.
TRIES: Final = 5


class Scope(StrEnum):
    """Of what a budget is. Stored; never renamed."""

    RUN = "run"  # a delivery, with all its attempts
    TRIGGER = "trigger"
    KEY = "key"  # a trigger and the key of an event
    TREE = "tree"  # an event, the runs that it caused, the events that these published, and so on


class Quantity(StrEnum):
    """What is counted. Stored; never renamed."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    TOOL_CALLS = "tool_calls"
    USD = "usd"


class Asked(NamedTuple):
    """A budget that applies to a call, and what the call may take of it.

    `period` names the window, empty if there is none; it is a day of `zone`, or `every` so long since 1970. `owner` is
    a trigger's id or ANY_TRIGGER, `subject` what the scope is told apart by.
    """

    owner: int
    scope: Scope
    subject: str
    quantity: Quantity
    period: str
    zone: str | None
    every: timedelta | None
    amount: Decimal
    allowed: Decimal


class Share(NamedTuple):
    """What a reservation has set aside in one budget."""

    spend_id: int
    quantity: Quantity
    amount: Decimal


class Reservation(NamedTuple):
    """What is set aside for one call; it ends with `settle_spend`, or when the lease does."""

    reservation_id: UUID
    shares: tuple[Share, ...]


class Refused(NamedTuple):
    """A budget that had no room for a call. `asked` is its place among those that were asked for, from 0; `opens_at`
    the end of its window, None if it has none; `at` the time in the database."""

    asked: int
    spend_id: int
    spent: Decimal
    reserved: Decimal
    total: Decimal
    amount: Decimal
    opens_at: datetime | None
    at: datetime

    @property
    def is_used_up(self) -> bool:
        """Whether there is no room even when all calls in flight come to nothing."""
        return self.spent > 0 and self.spent + self.amount > self.total


async def reserve(
    conn: AsyncConnection[Any],
    delivery_id: DeliveryId,
    lease_epoch: int,
    asked: Sequence[Asked],
    *,
    force: bool = False,
    now: datetime | None = None,
) -> Reservation | list[Refused]:
    """Set aside what a call may take, in all these budgets or in none.

    Args:
        asked: At least one, no two of which are the same budget.
        force: Grant it in any case: for what has to be paid already.

    Returns:
        The reservation, or the budgets that have no room for it.

    Raises:
        LeaseLost: The lease is gone; nothing was set aside, and the run must pay for nothing more.
    """
    reservation_id = new_id()
    columns = {name: [getattr(one, name) for one in asked] for name in Asked._fields}
    parameters: Mapping[str, Any] = {
        **columns,
        "trigger_id": delivery_id.trigger_id,
        "event_id": delivery_id.event_id,
        "lease_epoch": lease_epoch,
        "reservation_id": reservation_id,
        "force": force,
        "now": now,
    }
    for _ in range(TRIES):
        rows = await (await conn.execute(statement("reserve"), parameters)).fetchall()
        if not rows:
            raise LeaseLost(f"delivery {delivery_id} was given to another worker while this one ran it")
        whole, granted = rows[0][:2]
        places: list[int] = [row[2] - 1 for row in rows] if whole else []
        each = zip(places, rows, strict=False)
        if granted:
            shares = [Share(row[3], asked[place].quantity, asked[place].amount) for place, row in each]
            return Reservation(reservation_id, tuple(shares))
        if whole:
            return [
                Refused(place, spend_id, spent, reserved, total, asked[place].amount, ends_at, at)
                for place, (*_, spend_id, spent, reserved, total, fits, ends_at, at, _) in zip(
                    places, rows, strict=True
                )
                if not fits
            ]
        await conn.execute(statement("open_budgets"), parameters)
    raise AssertionError(f"the rows of {len(asked)} budgets vanish as soon as they are made")


async def settle_spend(
    conn: AsyncConnection[Any],
    reservation: Reservation,
    cost: Mapping[Quantity, Decimal],
    *,
    again: bool = False,
) -> None:
    """Count what a call has cost, in place of what was set aside for it. Of nothing, if it did not happen.

    Args:
        again: The connection broke when this was said the first time; it may have been counted then.
    """
    await conn.execute(
        statement("settle_spend"),
        {
            "reservation_id": reservation.reservation_id,
            "spend_id": [share.spend_id for share in reservation.shares],
            "amount": [share.amount for share in reservation.shares],
            "cost": [cost.get(share.quantity, Decimal(0)) for share in reservation.shares],
            "again": again,
        },
    )


async def give_back(conn: AsyncConnection[Any], *, limit: int) -> int:
    """Give back what was set aside by runs whose lease is gone. Returns for how many calls; `limit`: call again."""
    return (await only_row(conn, "give_back", {"limit": limit}))[0]


async def forget_spend(conn: AsyncConnection[Any], *, limit: int, now: datetime | None = None) -> int:
    """Delete what was spent a week before and longer. Returns how many budgets; `limit` or more: call again."""
    return (await conn.execute(statement("forget_spend"), {"limit": limit, "now": now})).rowcount

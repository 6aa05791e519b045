"""Budgets for the people who run the system: how they stand, and more of them."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection

from reflex.core.database import brief_transaction
from reflex.core.errors import NotFound
from reflex.core.reads import fetch
from reflex.core.statements import statement
from reflex.core.waiting import end_waits

__all__ = ["BudgetRow", "Raised", "list_budgets", "raise_budget"]

LIST_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A budget, in its window of now if it has one.

    `allowed` is what was declared, `raised` what a person has added, both for this window; `subject` is the key, the
    event of a run or the root of a tree. `trigger` and `app` are null where a budget is not of one trigger.
    `refused_at`: when it had no room for a call, if none was granted since.
    """

    id: int
    trigger: str | None
    app: str | None
    scope: str
    subject: str
    quantity: str
    period: str
    allowed: Decimal
    raised: Decimal
    spent: Decimal
    reserved: Decimal
    refused_at: datetime | None
    began_at: datetime | None
    ends_at: datetime | None


class Raised(NamedTuple):
    """What a budget is now, and how many deliveries that waited are due."""

    quantity: str
    total: Decimal
    due: int


async def list_budgets(conn: AsyncConnection[Any], *, now: datetime | None = None) -> list[BudgetRow]:
    """The budgets of triggers in their window of now, and those that refused a call last; at most 100 of each."""
    return [BudgetRow(**row) for row in await fetch(conn, "list_budgets", {"limit": LIST_LIMIT, "now": now})]


async def raise_budget(conn: AsyncConnection[Any], spend_id: int, amount: Decimal) -> Raised:
    """Allow so much more, in this window if it has one, and make due what waits for it.

    Raises:
        NotFound: There is no such budget.
    """
    async with brief_transaction(conn):
        found = await fetch(conn, "raise_budget", {"spend_id": spend_id, "amount": amount})
        if not found:
            raise NotFound(f"there is no budget {spend_id}; `reflex budgets list` shows those that were asked for")
        (row,) = found
        subject = {name: row[name] for name in ("trigger_id", "scope", "subject")}
        waiting = await (await conn.execute(statement("budget_waits"), subject)).fetchall()
        due = await end_waits(conn, [(trigger_id, event_id) for trigger_id, event_id in waiting])
    return Raised(row["quantity"], row["total"], len(due))

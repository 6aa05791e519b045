"""What was ordered once and goes on: schedules that should fire, budgets that are used up."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from reflex.core.budget_reads import BudgetRow, list_budgets
from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, number, seconds
from reflex.core.schedules import ScheduleRow, list_schedules
from reflex.core.statements import only_row

__all__ = ["BUDGETS", "SCHEDULES", "judge_budgets", "judge_schedules"]

# A worker looks every few seconds, and plans a new schedule at once.
OVERDUE: Final = timedelta(minutes=1)


async def look_at_schedules(installation: Installation) -> Looked:
    conn = installation.connection
    rows = await list_schedules(conn, lease_timeout=installation.lease_timeout)
    (now,) = await only_row(conn, "check_round_trip")
    standing = [row for row in rows if row.retired_at is None]
    coming = min((row.next_at for row in standing if row.next_at), default=None)
    says = f"{number(len(standing), 'schedule')}"
    if coming is not None and coming > now:
        says += f", the next fires in {seconds((coming - now).total_seconds())}"
    return Looked(says if standing else "there are none", judge_schedules(standing, now=now))


def judge_schedules(rows: Sequence[ScheduleRow], *, now: datetime) -> list[Problem]:
    """`rows` without those that were retired; `now` of the database's clock. Pure."""
    problems: list[Problem] = []
    for row in rows:
        late = now - (row.next_at or row.registered_at)
        if not row.live_workers:
            problems.append(
                Problem(
                    Level.WARNING,
                    f"schedule {row.name} does not fire: no live worker of app {row.app} has it",
                    f"{row.description}. What becomes of the times that are missed: {row.missed}.",
                    [f"reflex worker --app {row.app}"],
                )
            )
        elif late > OVERDUE:
            problems.append(
                Problem(
                    Level.WARNING,
                    f"schedule {row.name} of {row.app} is overdue by {seconds(late.total_seconds())}",
                    "Workers that have it are alive and do not fire it.",
                    ["Look for \"timers\" and \"schedule\" in the logs of the workers, and restart one."],
                )
            )  # fmt: skip
    return problems


async def look_at_budgets(installation: Installation) -> Looked:
    rows = await list_budgets(installation.connection)
    return Looked(
        f"{number(len(rows), 'budget')} in use, none used up" if rows else "none is in use", judge_budgets(rows)
    )


def judge_budgets(rows: Sequence[BudgetRow]) -> list[Problem]:
    """Those that had no room for the last call. Pure."""
    return [
        Problem(
            Level.WARNING,
            f"the budget of {whose(row)} is used up: {plain(row.spent)} {row.quantity} "
            f"of {plain(row.allowed + row.raised)}",
            "Deliveries that need more of it wait"
            + (
                f" until {row.ends_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
                if row.ends_at
                else " for somebody to raise it."
            ),
            [f"reflex budgets raise {row.id} AMOUNT"],
        )
        for row in rows
        if row.refused_at is not None
    ]


def whose(row: BudgetRow) -> str:
    about = (
        f" for {row.scope} {row.subject}" if row.subject else f" for each {row.scope}" if row.scope != "trigger" else ""
    )
    return (row.trigger or "all triggers") + about


def plain(amount: Decimal) -> str:
    """At most six places, and no zeros at the end."""
    return f"{amount:.6f}".rstrip("0").rstrip(".")


SCHEDULES: Final = Check("schedules", "do they fire", Need.SCHEMA, look_at_schedules)
BUDGETS: Final = Check("budgets", "which are used up", Need.SCHEMA, look_at_budgets)

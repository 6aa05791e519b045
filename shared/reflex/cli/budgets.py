"""`reflex budgets`: what triggers may spend and have spent, and more of it."""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from reflex.core.budget_reads import BudgetRow

__all__ = ["app", "print_budgets"]

T = TypeVar("T")

app = typer.Typer(help="What triggers may spend, and what waits because it is spent.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """The budgets of triggers in their window of now, and those of runs, keys and trees that are used up."""
    from reflex.cli.tables import print_json
    from reflex.core.budget_reads import list_budgets

    budgets = run(list_budgets)
    if json:
        print_json({"budgets": budgets})
        return
    print_budgets(budgets, nothing="nothing was spent of any budget; a trigger has some with budgets=[…]")


@app.command("raise")
def raise_(
    id: Annotated[int, typer.Argument(help="The budget's id, as `reflex budgets list` shows it.")],
    amount: Annotated[str, typer.Argument(help="How much more is allowed: 2.5 dollars, 20 requests.")],
) -> None:
    """Allow more: in this window if the budget has one, else for good. What waits for it is due at once."""
    from reflex.core.budget_reads import raise_budget

    more = read_amount(amount)
    raised = run(lambda conn: raise_budget(conn, id, more))
    due = f"{raised.due} deliveries that waited are due"
    typer.echo(f"budget {id} is {number(raised.total)} {raised.quantity} now; {due}")


def print_budgets(budgets: "Sequence[BudgetRow]", *, nothing: str) -> None:
    """A table of them."""
    from reflex.cli.tables import ahead, print_table

    print_table(
        ["id", "trigger", "app", "for", "spent", "in flight", "of", "", "window", "used up"],
        [
            (
                row.id, row.trigger or "all", row.app, " ".join(filter(None, [row.scope, row.subject])),
                number(row.spent), number(row.reserved), number(row.allowed + row.raised), row.quantity,
                f"{row.period}, ends {ahead(row.ends_at)}" if row.ends_at else None, "yes" if row.refused_at else "",
            )
            for row in budgets
        ],
        nothing=nothing,
    )  # fmt: skip


def read_amount(text: str) -> Decimal:
    from reflex.core.pages import QueryRejected

    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("nan")
    if not (amount.is_finite() and 0 < amount < 10**15):
        raise QueryRejected(f"{text[:80]!r} is no amount; write a number that is more than 0", field="amount")
    return amount


def number(value: Decimal) -> str:
    """At most six places, and no zeros at the end."""
    text = f"{value:.6f}"
    return text.rstrip("0").rstrip(".")


def run(action: "Callable[[AsyncConnection[Any]], Awaitable[T]]") -> T:
    from reflex.cli.connecting import run_connected

    return run_connected(action, name="reflex budgets")

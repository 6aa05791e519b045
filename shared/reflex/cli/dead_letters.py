"""`reflex dead-letters`: look at what died, give it another set of attempts, or give up on it."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from reflex.core.dead_letters import DeadLetterFilter

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(help="Deliveries that will not be tried again until somebody says so.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]
Trigger = Annotated[str | None, typer.Option(help="Only those of this trigger.")]
App = Annotated[str | None, typer.Option("--app", help="Only those of this app.")]
Type = Annotated[str | None, typer.Option(help="Only events of this type; order.* is a prefix.")]
Reason = Annotated[str | None, typer.Option(help="Only those that died of this, as in exception or rejected.")]
Key = Annotated[str | None, typer.Option(help="Only events about this key.")]
Since = Annotated[str | None, typer.Option(help="Died since then: RFC 3339, or an age such as 2h.")]
Until = Annotated[str | None, typer.Option(help="Died before then.")]
Id = Annotated[str | None, typer.Argument(help="The dead letter's id. Without it, a filter says which.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter there is.")]
Limit = Annotated[int, typer.Option(help="At most so many.")]


@app.command("list")
def list_(
    trigger: Trigger = None, app: App = None, type: Type = None, reason: Reason = None, key: Key = None,
    since: Since = None, until: Until = None, limit: Limit = 50, cursor: str | None = None, json: Json = False,
) -> None:  # fmt: skip
    """The dead letters, the latest first."""
    from reflex.cli.tables import ago, print_json, print_table
    from reflex.core.dead_letters import list_dead_letters

    which = chosen(trigger, app, type, reason, key, since, until)
    page = run(lambda conn: list_dead_letters(conn, which, cursor=cursor, limit=limit))
    if json:
        print_json({"dead_letters": page.rows, "next_cursor": page.next_cursor})
        return
    print_table(
        ["id", "trigger", "type", "key", "died", "attempts", "reason", "error"],
        [
            (row.id, row.trigger, row.event.type, row.event.key, ago(row.died_at), row.attempt, row.reason,
             (row.error or "").partition("\n")[0][:80])
            for row in page.rows
        ],
        nothing="no dead letters",
    )  # fmt: skip
    if page.next_cursor:
        typer.echo(f"\nthere are more: --cursor {page.next_cursor}")


@app.command()
def show(id: Annotated[str, typer.Argument(help="The dead letter's id.")], json: Json = False) -> None:
    """One dead letter with its event, its error and every run."""
    from reflex.cli.tables import ago, print_json, print_table
    from reflex.core.dead_letters import get_dead_letter

    delivery_id = parsed(id)
    letter = run(lambda conn: get_dead_letter(conn, delivery_id))
    if json:
        print_json(letter)
        return
    typer.echo(f"trigger  {letter.trigger} of {letter.app}")
    typer.echo(f"event    {letter.event.id}  {letter.event.type}  from {letter.event.source}  key {letter.event.key}")
    typer.echo(f"died     {ago(letter.died_at)}, at attempt {letter.attempt}: {letter.reason}")
    typer.echo("payload")
    print_json(letter.payload)
    typer.echo(f"error\n{letter.error}\n")
    print_table(
        ["attempt", "outcome", "replay", "started", "ms", "error"],
        [
            (r.attempt, r.outcome, "yes" if r.is_replay else None, r.started_at.isoformat(timespec="milliseconds"),
             r.duration_ms, (r.error or "").partition("\n")[0][:100])
            for r in letter.runs
        ],
        nothing="no runs",
    )  # fmt: skip
    typer.echo(f"\ntry it again with `reflex dead-letters retry {letter.id}`")


@app.command()
def retry(
    id: Id = None, trigger: Trigger = None, app: App = None, type: Type = None, reason: Reason = None, key: Key = None,
    since: Since = None, until: Until = None, all: All = False,
) -> None:  # fmt: skip
    """A new set of attempts, for one dead letter or for all that a filter means."""
    from reflex.core.dead_letters import retry_dead_letter, retry_dead_letters

    if id is not None:
        delivery_id = parsed(id)
        run(lambda conn: retry_dead_letter(conn, delivery_id))
        typer.echo(f"{id} is pending again")
        return
    which = chosen(trigger, app, type, reason, key, since, until)
    count = run(lambda conn: retry_dead_letters(conn, which, all=all))
    typer.echo(f"{count} dead letters are pending again")


@app.command()
def purge(
    id: Id = None, trigger: Trigger = None, app: App = None, type: Type = None, reason: Reason = None, key: Key = None,
    since: Since = None, until: Until = None, all: All = False,
) -> None:  # fmt: skip
    """Give up on one dead letter, or on all that a filter means. Their events and runs stay."""
    from reflex.core.dead_letters import purge_dead_letter, purge_dead_letters

    if id is not None:
        delivery_id = parsed(id)
        run(lambda conn: purge_dead_letter(conn, delivery_id))
        typer.echo(f"{id} is cancelled")
        return
    which = chosen(trigger, app, type, reason, key, since, until)
    count = run(lambda conn: purge_dead_letters(conn, which, all=all))
    typer.echo(f"{count} dead letters are cancelled")


def parsed(id: str):
    from reflex.core.errors import EventRejected
    from reflex.core.ids import DeliveryId

    try:
        return DeliveryId.parse(id)
    except ValueError as error:
        raise EventRejected(str(error), field="id") from None


def chosen(
    trigger: str | None, app: str | None, type: str | None, reason: str | None, key: str | None, since: str | None,
    until: str | None,
) -> "DeadLetterFilter":  # fmt: skip
    from reflex.core.dead_letters import DeadLetterFilter

    return DeadLetterFilter(trigger, app, type, reason, key, moment(since, "since"), moment(until, "until"))


def moment(text: str | None, name: str) -> datetime | None:
    from reflex.core.pages import parse_moment

    return parse_moment(text, field=name) if text else None


def run(action: "Callable[[AsyncConnection[Any]], Awaitable[T]]") -> T:
    from reflex.cli.connecting import run_connected

    return run_connected(action, name="reflex dead-letters")

"""`reflex effects`: what is not known of tools that must not be repeated, and a person's word on it."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from reflex.core.rows import StoredJson

__all__ = ["app"]

T = TypeVar("T")
MAX_NESTING: Final = 64

app = typer.Typer(help="Calls of tools that must not be repeated, and that were cut off.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


@app.command("list")
def list_(
    trigger: Annotated[str | None, typer.Option(help="Only those of this trigger.")] = None,
    running: Annotated[bool, typer.Option("--running", help="Those that a run is at, instead.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    cursor: str | None = None,
    json: Json = False,
) -> None:
    """Every call of which nobody knows whether it did its work, those of the latest event first."""
    from reflex.cli.tables import ago, print_table
    from reflex.core.effects import list_effects
    from reflex.core.rows import to_json

    state = "running" if running else "unknown"
    page = run(lambda conn: list_effects(conn, state=state, trigger=trigger, cursor=cursor, limit=limit))
    if json:
        # Not by way of Python: a number in the arguments may be too large for other printers.
        typer.echo(to_json({"effects": page.rows, "next_cursor": page.next_cursor}, indent=True).decode())
        return
    print_table(
        ["delivery", "step", "trigger", "tool", "arguments", "key", "begun", "waits", "why"],
        [
            (row.delivery_id, row.step, row.trigger, row.tool, row.arguments.text[:100], row.key, ago(row.begun_at),
             "yes" if row.waits else "no", (row.reason or "")[:100])
            for row in page.rows
        ],
        nothing="nothing is unknown" if not running else "no such call is under way",
    )  # fmt: skip
    if page.next_cursor:
        typer.echo(f"\nthere are more: --cursor {page.next_cursor}")


@app.command()
def resolve(
    delivery: Annotated[str, typer.Argument(help="The delivery's id, as `reflex effects list` shows it.")],
    step: Annotated[int, typer.Argument(help="The step's number, beside it.")],
    done: Annotated[
        str | None,
        typer.Option(help="It did its work, and would have returned this.", metavar="JSON"),
    ] = None,
    not_done: Annotated[bool, typer.Option("--not-done", help="It did not do its work, and is to be called.")] = False,
    json: Json = False,
) -> None:
    """Say whether a call did its work. Its delivery goes on."""
    from reflex.cli.tables import print_json
    from reflex.core.effects import EffectId, resolve_effect
    from reflex.core.errors import EventRejected

    try:
        effect_id = EffectId.parse(f"{delivery}.{step}")
    except ValueError as error:
        raise EventRejected(str(error), field="delivery") from None
    if (done is not None) == not_done:
        raise EventRejected("say --done JSON, with what the tool would have returned, or --not-done", field="done")
    result = None if done is None else parsed(done)
    resolved = run(lambda conn: resolve_effect(conn, effect_id, done=result))
    if json:
        print_json(resolved)
        return
    said = "was done" if resolved.done else "was not done"
    typer.echo(f"{effect_id} {said}; {'its delivery goes on' if resolved.due else 'its delivery does not wait for it'}")


def parsed(text: str) -> "StoredJson":
    from reflex.core.errors import EventRejected
    from reflex.core.rows import StoredJson
    from reflex.core.strict_json import MalformedJson, parse

    try:
        parse(text.encode(), max_nesting=MAX_NESTING)
    except MalformedJson as error:
        reason = f"{error.reason}; a text is JSON in double quotes, as in '\"receipt 17\"'"
        raise EventRejected(reason, field="done") from None
    except EventRejected as error:
        raise EventRejected(error.reason, field="done") from None
    return StoredJson(text)


def run(action: "Callable[[AsyncConnection[Any]], Awaitable[T]]") -> T:
    from reflex.cli.connecting import run_connected

    return run_connected(action, name="reflex effects")

"""`reflex state`: what a trigger remembers of a key, and the end of it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from psycopg import AsyncConnection

__all__ = ["app"]

app = typer.Typer(
    help="What triggers remember of a key: a state, the messages of a conversation.", no_args_is_help=True
)

TriggerName = Annotated[str, typer.Argument(help="The trigger's name.")]
Key = Annotated[str, typer.Argument(help="The key, as the trigger finds it in its events.")]
AppName = Annotated[str | None, typer.Option("--app", help="The trigger's app, if several have one.")]


@app.command()
def show(
    trigger: TriggerName,
    key: Key,
    app: AppName = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document, with the messages.")] = False,
) -> None:
    """The state, how long the conversation is, and what it has used up."""
    from reflex.cli.connecting import run_connected
    from reflex.cli.tables import ago
    from reflex.core.replaying import find_trigger
    from reflex.core.rows import to_json
    from reflex.core.states import StateRow, get_state

    async def look(conn: "AsyncConnection[Any]") -> StateRow:
        found = await find_trigger(conn, trigger, app=app)
        return await get_state(conn, found.trigger_id, key, trigger=found.name, app=found.app)

    row = run_connected(look, name="reflex state")
    if json:
        typer.echo(to_json(row, indent=True))
        return
    typer.echo(f"{row.trigger} of {row.app}, key {row.key}: version {row.version}, changed {ago(row.updated_at)}")
    if row.state is not None:
        typer.echo(f"state, version {row.schema_version} of its class:")
        typer.echo(to_json(row.state, indent=True))
    if row.messages is not None and row.usage is not None:
        usage = ", ".join(f"{name} {number}" for name, number in row.usage.value.items())
        typer.echo(f"{len(row.messages.value)} messages (--json shows them); used up: {usage}")


@app.command()
def forget(trigger: TriggerName, key: Key, app: AppName = None) -> None:
    """Forget both. A run that has read them already is given back, and begins anew."""
    from reflex.cli.connecting import run_connected
    from reflex.core.errors import NotFound
    from reflex.core.replaying import find_trigger
    from reflex.core.states import forget_state

    async def end(conn: "AsyncConnection[Any]") -> str:
        found = await find_trigger(conn, trigger, app=app)
        if not await forget_state(conn, found.trigger_id, key):
            raise NotFound(f"trigger {found.name!r} of {found.app} remembers nothing of the key {key!r}")
        return f"trigger {found.name!r} of {found.app} remembers nothing of the key {key!r} any more"

    typer.echo(run_connected(end, name="reflex state"))

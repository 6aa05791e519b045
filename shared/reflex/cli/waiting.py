"""`reflex waiting`: which deliveries wait, and for what."""

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Deliveries that wait: for a time, an event or a person.", no_args_is_help=True)


@app.callback()
def waiting() -> None:
    """Deliveries that wait: for a time, an event or a person."""


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> None:
    """Those that have waited longest first."""
    from reflex.cli.connecting import run_connected
    from reflex.cli.tables import ago, ahead, print_json, print_table
    from reflex.core.waiting_list import list_waiting

    rows = run_connected(lambda conn: list_waiting(conn, limit=limit), name="reflex waiting")
    if json:
        print_json({"waiting": rows})
        return
    print_table(
        ["delivery", "trigger", "key", "kind", "since", "until", "reason"],
        [
            (row.id, row.trigger, row.key, row.kind, ago(row.since), ahead(row.until) if row.until else None,
             row.reason[:100])
            for row in rows
        ],
        nothing="no delivery waits",
    )  # fmt: skip

"""`reflex webhooks`: what gateways take at /webhooks/<name>."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from reflex.core.webhooks import WebhookRow

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(help="Webhooks: what other systems may send to /webhooks/<name>.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """All webhooks, and how many secrets are set here: run it where a gateway runs."""
    from reflex.cli.tables import ago, print_json, print_table
    from reflex.core.webhooks import list_webhooks

    found = run(list_webhooks)
    rows = [described(row) for row in found]
    if json:
        print_json({"webhooks": rows})
        return
    print_table(
        ["webhook", "app", "scheme", "type", "key", "secret in", "set here", "changed"],
        [(*row.values(), ago(each.registered_at)) for row, each in zip(rows, found, strict=True)],
        nothing="no webhook is registered; an app declares one with reflex.agent.webhooks",
    )


@app.command()
def forget(name: Annotated[str, typer.Argument(help="The webhook, as `reflex webhooks list` shows it.")]) -> None:
    """Take a webhook no more. An app that still declares it registers it again when a worker starts."""
    from reflex.core.errors import NotFound
    from reflex.core.webhooks import forget_webhook

    if not run(lambda conn: forget_webhook(conn, name)):
        raise NotFound(f"there is no webhook {name!r}; `reflex webhooks list` shows those there are")
    typer.echo(f"{name} is not taken any more")


def described(row: "WebhookRow") -> dict[str, Any]:
    import os

    from reflex.core.webhooks import secret_variable, secrets_in

    webhook = row.definition
    variable = secret_variable(webhook.name)
    return {
        "name": webhook.name, "app": row.app, "scheme": webhook.scheme.name, "type": webhook.type, "key": webhook.key,
        "secret_variable": variable, "secrets_set": len(secrets_in(os.environ, variable)),
    }  # fmt: skip


def run(action: "Callable[[AsyncConnection[Any]], Awaitable[T]]") -> T:
    from reflex.cli.connecting import run_connected

    return run_connected(action, name="reflex webhooks")

"""`reflex keys`: make an API key for a client of the gateway, see which there are, end one."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from reflex.core.api_keys import ApiKey

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(help="API keys: who may use a gateway that runs with REFLEX_ACCESS=keys.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Whose it is, as in shop-backend.")],
    scope: Annotated[list[str], typer.Option(help="What it may do: publish, read or operate; give it again for more.")],
    expires: Annotated[
        str | None, typer.Option(help="Valid for so long, as in 90d or 12h; without it, until it is revoked.")
    ] = None,
    type: Annotated[
        list[str] | None,
        typer.Option(help="Bind it to this type of events, or to a prefix such as order.*; give it again for more."),
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="Bind it to this source; give it again for more.")] = None,
    rate: Annotated[str | None, typer.Option(help="It publishes so many events a second at most, as in 50/s.")] = None,
    quota: Annotated[
        str | None, typer.Option(help="It publishes so many events a day (UTC) at most, as in 100000/d.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key and print its secret: to standard output, once, and nothing else goes there."""
    from reflex.cli.tables import print_json
    from reflex.core.api_keys import create_api_key
    from reflex.core.durations import parse_duration
    from reflex.core.pages import QueryRejected

    lasts = parse_duration(expires) if expires is not None else None
    if expires is not None and lasts is None:
        raise QueryRejected(f"{expires[:80]!r} is no duration; write 12h or 90d", field="expires")
    key, secret = run(
        lambda conn: create_api_key(
            conn, name=name, scopes=scope, lasts=lasts, types=type or (), sources=source or (), rate=rate, quota=quota
        )
    )
    if json:
        print_json({"key": key, "secret": secret})
        return
    until = f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "until it is revoked"
    bound = f", bound to {bound_to(key)}" if bound_to(key) else ""
    most = f", at most {key.limits}" if str(key.limits) else ""
    typer.echo(f"key {key.id} ({key.name}) may {', '.join(key.scopes)} {until}{bound}{most}", err=True)
    typer.echo("this is its secret, which is not shown again:", err=True)
    typer.echo(secret)


@app.command("list")
def list_(json: Json = False) -> None:
    """All keys, the newest first; not their secrets, which nobody has any more."""
    from reflex.cli.tables import ago, ahead, print_json, print_table
    from reflex.core.api_keys import list_api_keys

    keys = run(list_api_keys)
    if json:
        print_json({"keys": keys})
        return
    print_table(
        ["id", "name", "scopes", "state", "created", "expires", "last used", "bound to", "limits"],
        [
            (key.id, key.name, ", ".join(key.scopes), key.state, ago(key.created_at),
             ahead(key.expires_at) if key.expires_at and key.state == "valid" else None,
             ago(key.last_used_at) if key.last_used_at else "never", bound_to(key) or None,
             str(key.limits) or None)
            for key in keys
        ],
        nothing="no API keys; `reflex keys create` makes one",
    )  # fmt: skip


@app.command()
def revoke(id: Annotated[str, typer.Argument(help="The key's id, as `reflex keys list` shows it.")]) -> None:
    """End a key for good. Gateways refuse it, and end its open connections, within five seconds."""
    from reflex.core.api_keys import revoke_api_key

    key = run(lambda conn: revoke_api_key(conn, id))
    typer.echo(f"key {key.id} ({key.name}) is revoked")


def bound_to(key: "ApiKey") -> str:
    """In words; empty if it is bound to nothing."""
    sources = f"from {', '.join(key.sources)}" if key.sources else ""
    return " ".join(filter(None, [", ".join(key.types), sources]))


def run(action: "Callable[[AsyncConnection[Any]], Awaitable[T]]") -> T:
    from reflex.cli.connecting import run_connected

    return run_connected(action, name="reflex keys")

"""`reflex approvals`: look at the tool calls that somebody has to approve, and decide."""

import getpass
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

if TYPE_CHECKING:
    from uuid import UUID

    from psycopg import AsyncConnection

    from reflex.core.approvals import ApprovalRow

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(help="Tool calls that wait until somebody approves them.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
Id = Annotated[str, typer.Argument(help="The approval's id.")]
Digest = Annotated[
    str | None, typer.Option(help="That of the call as it was looked at. Without it, the call is shown and asked for.")
]
Reason = Annotated[str | None, typer.Option(help="Why. Of a denied call, the model reads it.")]
By = Annotated[str | None, typer.Option(help="Who decides (the name of this account).")]


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="pending, decided, or all.")] = "pending",
    trigger: Annotated[str | None, typer.Option(help="Only those of this trigger.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    cursor: str | None = None,
    json: Json = False,
) -> None:
    """The approvals that somebody has to decide, the newest first."""
    from reflex.cli.tables import ago, ahead, print_json, print_table
    from reflex.core.approvals import list_approvals
    from reflex.core.pages import QueryRejected

    if state not in ("pending", "decided", "all"):
        raise QueryRejected(f"is {state!r}; it must be pending, decided or all", field="state")
    only = None if state == "all" else state
    page = run(lambda conn: list_approvals(conn, state=only, trigger=trigger, cursor=cursor, limit=limit))
    if json:
        print_json({"approvals": page.rows, "next_cursor": page.next_cursor})
        return
    print_table(
        ["id", "trigger", "tool", "arguments", "state", "asked", "expires"],
        [
            (row.id, row.trigger, row.tool, shortened(row.arguments.text), row.state, ago(row.created_at),
             ahead(row.expires_at) if row.state == "pending" else None)
            for row in page.rows
        ],
        nothing="nothing waits for an approval" if only == "pending" else "no approvals",
    )  # fmt: skip
    if page.next_cursor:
        typer.echo(f"\nthere are more: --cursor {page.next_cursor}")


@app.command()
def show(id: Id, json: Json = False) -> None:
    """One approval: the tool, its arguments, and what was decided."""
    from reflex.cli.tables import print_json
    from reflex.core.approvals import get_approval

    approval_id = parsed(id)
    row = run(lambda conn: get_approval(conn, approval_id))
    if json:
        print_json(row)
        return
    describe(row)
    if row.state == "pending":
        typer.echo(f"\ndecide with `reflex approvals approve {row.id}` or `reflex approvals deny {row.id}`")


@app.command()
def approve(
    id: Id,
    digest: Digest = None,
    arguments: Annotated[
        str | None, typer.Option(help="A JSON object: make the call with these arguments instead.")
    ] = None,
    reason: Reason = None,
    by: By = None,
    json: Json = False,
) -> None:
    """Approve the call: it is made."""
    decide(id, approve=True, digest=digest, arguments=arguments, reason=reason, by=by, as_json=json)


@app.command()
def deny(id: Id, digest: Digest = None, reason: Reason = None, by: By = None, json: Json = False) -> None:
    """Deny the call: it is not made, and the model is told so."""
    decide(id, approve=False, digest=digest, arguments=None, reason=reason, by=by, as_json=json)


def decide(
    id: str, *, approve: bool, digest: str | None, arguments: str | None, reason: str | None, by: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    from reflex.cli.tables import print_json
    from reflex.core.approvals import decide_approval, get_approval

    approval_id = parsed(id)
    edited = json_object(arguments) if arguments is not None else None
    if digest is None:
        shown = run(lambda conn: get_approval(conn, approval_id))
        describe(shown, err=True)
        typer.confirm(f"{'Approve' if approve else 'Deny'} this call?", abort=True, err=True)
        digest = shown.digest
    chosen, who = digest, by or account()
    row = run(
        lambda conn: decide_approval(
            conn, approval_id, approve=approve, digest=chosen, arguments=edited, reason=reason, by=who
        )
    )
    if as_json:
        print_json(row)
        return
    typer.echo(f"{row.id} is {row.state}: {row.tool} of trigger {row.trigger}")


def describe(row: "ApprovalRow", *, err: bool = False) -> None:
    lines = [
        f"tool       {row.tool}",
        f"arguments  {row.arguments.text}",
        f"trigger    {row.trigger} of {row.app}, delivery {row.delivery_id}",
        f"state      {row.state}, asked {minute(row.created_at)}, expires {minute(row.expires_at)}",
        f"digest     {row.digest}",
    ]
    if row.metadata is not None:
        lines.append(f"metadata   {row.metadata.text}")
    if row.decided_at is not None:
        lines.append(f"decided    {minute(row.decided_at)} by {row.decided_by or '-'}: {row.reason or '-'}")
    if row.edited_arguments is not None:
        lines.append(f"made with  {row.edited_arguments.text}")
    for line in lines:
        typer.echo(line, err=err)


def account() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return None


def minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def json_object(text: str) -> dict[str, Any]:
    from reflex.core.approvals import DecisionRejected
    from reflex.core.strict_json import parse

    value: object = parse(text.encode("utf-8", "replace"), max_nesting=64)
    if not isinstance(value, dict):
        raise DecisionRejected("must be a JSON object", field="arguments")
    return cast("dict[str, Any]", value)


def parsed(id: str) -> "UUID":
    from uuid import UUID

    from reflex.core.errors import NotFound

    try:
        return UUID(id)
    except ValueError:
        raise NotFound(f"there is no approval {id[:80]!r}; `reflex approvals list` shows their ids") from None


def shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


def run(action: "Callable[[AsyncConnection[Any]], Awaitable[T]]") -> T:
    from reflex.cli.connecting import run_connected

    return run_connected(action, name="reflex approvals")

"""`reflex status`: what a tired person wants to know first. Reads the database, so it works with every gateway down."""

from datetime import timedelta

import typer

from reflex.cli.budgets import print_budgets
from reflex.cli.connecting import connected, database_url
from reflex.cli.tables import ago, print_json, print_table
from reflex.core.budget_reads import list_budgets
from reflex.core.overview import describe_problems, read_overview
from reflex.core.settings import Settings
from reflex.core.usage_reads import UsageRow, usage_of_triggers

__all__ = ["show_status"]


async def show_status(settings: Settings, *, as_json: bool) -> None:
    """Print the queue, the workers and what is wrong.

    Raises:
        DatabaseUnavailable: It cannot be reached.
        ConfigurationError: It has no schema.
    """
    url = database_url(settings)
    async with connected(url, name="reflex status") as conn:
        overview = await read_overview(conn, lease_timeout=timedelta(seconds=settings.lease_timeout_s))
        budgets = await list_budgets(conn)
        usage = await usage_of_triggers(conn)
    problems = describe_problems(overview)
    if as_json:
        print_json({
            "queue": overview.queue, "workers": overview.workers, "usage": usage, "budgets": budgets,
            "problems": problems,
        })  # fmt: skip
        return
    queue = overview.queue
    about = {name: "about " for name in queue.estimated}
    waited = "" if queue.oldest_pending_s is None else f", the oldest for {queue.oldest_pending_s:.1f} s"
    typer.echo(f"pending    {about.get('pending', '')}{queue.pending}{waited}")
    typer.echo(f"scheduled  {about.get('scheduled', '')}{queue.scheduled}")
    typer.echo(f"waiting    {queue.waiting}" + ("  (reflex waiting list)" if queue.waiting else ""))
    typer.echo(f"running    {about.get('running', '')}{queue.running}")
    hint = "  (reflex dead-letters list)" if queue.dead else ""
    typer.echo(f"dead       {about.get('dead', '')}{queue.dead}{hint}")
    typer.echo(f"unrouted   {about.get('unrouted', '')}{queue.unrouted}")
    typer.echo()
    print_table(
        ["worker", "app", "host", "pid", "slots", "running", "heartbeat"],
        [
            (w.id, w.app, w.host, w.pid, w.slots, w.running, ago(w.heartbeat_at) + ("" if w.live else "!"))
            for w in overview.workers
        ],
        nothing="no worker is running: start one with `reflex worker --app MODULE`",
    )
    if usage:
        typer.echo("\nused up by agents in the last 24 hours")
        print_table(
            ["trigger", "app", "runs", "requests", "tokens in", "tokens out", "USD"],
            [
                (row.trigger, row.app, row.runs, row.requests, row.input_tokens, row.output_tokens, priced(row))
                for row in usage
            ],
            nothing="",
        )
    if budgets:
        typer.echo()
        print_budgets(budgets, nothing="")
    for problem in problems:
        typer.echo(f"\n! {problem}")


def priced(row: UsageRow) -> str:
    """What is known of the price."""
    if row.cost_usd is None:
        return "no price known"
    more = f" (and {row.unpriced_runs} runs without a price)" if row.unpriced_runs else ""
    return f"{row.cost_usd:.4f}{more}"

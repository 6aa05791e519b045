"""`reflex status`: what a tired person wants to know first. Reads the database, so it works with every gateway down."""

from datetime import timedelta

import typer

from reflex.cli.budgets import print_budgets
from reflex.cli.connecting import connected, database_url
from reflex.cli.tables import ago, print_json, print_table
from reflex.core.budget_reads import list_budgets
from reflex.core.overview import describe_problems, read_overview
from reflex.core.settings import Settings

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
        # What was spent is in the rows of the budgets: no run is looked at.
        budgets = await list_budgets(conn)
    problems = describe_problems(overview)
    if as_json:
        print_json({"queue": overview.queue, "workers": overview.workers, "budgets": budgets, "problems": problems})
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
    if budgets:
        typer.echo()
        print_budgets(budgets, nothing="")
    for problem in problems:
        typer.echo(f"\n! {problem}")

"""`reflex schedules`: what the clock will do next, and what it did last."""

from datetime import timedelta

from reflex.cli.connecting import connected, database_url
from reflex.cli.tables import ago, ahead, print_json, print_table
from reflex.core.schedules import ScheduleRow, list_schedules
from reflex.core.settings import Settings

__all__ = ["show_schedules"]


async def show_schedules(settings: Settings, *, as_json: bool) -> None:
    """Print every schedule.

    Raises:
        DatabaseUnavailable: It cannot be reached.
        ConfigurationError: It has no schema.
    """
    async with connected(database_url(settings), name="reflex schedules") as conn:
        rows = await list_schedules(conn, lease_timeout=timedelta(seconds=settings.lease_timeout_s))
    if as_json:
        print_json({"schedules": rows})
        return
    print_table(
        ["schedule", "app", "fires", "time zone", "next", "last", "last event", "fired", "skipped"],
        [
            (
                row.name, row.app, row.description, row.tz, next_fire(row), ago(row.last_at) if row.last_at else None,
                row.last_event_id, row.fired, row.skipped,
            )
            for row in rows
        ],
        nothing="no schedule is registered; an app makes one with reflex.agent.schedules",
    )  # fmt: skip


def next_fire(row: ScheduleRow) -> str:
    if row.retired_at:
        return "never: retired"
    if not row.live_workers:
        return f"no worker of {row.app} is running"
    return ahead(row.next_at) if row.next_at else "being planned"

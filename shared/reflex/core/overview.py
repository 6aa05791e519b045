"""The state of the whole system in a few numbers, cheap enough to ask for every second on a large backlog."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.reads import COUNT_LIMIT, fetch

__all__ = [
    "FailingModel",
    "Overview",
    "QueueNumbers",
    "UnservedTrigger",
    "WorkerRow",
    "describe_problems",
    "read_overview",
]

LIST_LIMIT: Final = 100
# A queue whose oldest delivery waits longer than this has too few workers, or stuck ones.
LONG_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker. Not `live`: its heartbeat is late, and nobody has freed what it held yet."""

    id: UUID
    app: str
    host: str
    pid: int
    slots: int
    running: int
    started_at: datetime
    heartbeat_at: datetime
    heartbeat_age_s: float
    live: bool


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """How much is where. Exact below 10,000; `estimated` names the numbers that are larger and only about right.

    `pending` are due, `scheduled` are put off, `waiting` (counted up to 10,000) gave their slot back in the middle of a
    run, `orphaned` are running deliveries whose worker is gone.
    `held_keys` are keys of ordered triggers that stand still until somebody retries or purges a dead letter.
    `oldest_pending_s` is how long the oldest due delivery has waited, at most; null if none waits.
    """

    pending: int
    scheduled: int
    running: int
    dead: int
    unrouted: int
    orphaned: int
    oldest_pending_s: float | None
    estimated: list[Literal["pending", "scheduled", "running", "dead", "unrouted"]]
    held_keys: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class UnservedTrigger:
    """A trigger with due deliveries that no live worker will take."""

    trigger: str
    app: str
    retired: bool
    app_is_live: bool


@dataclass(frozen=True, slots=True)
class FailingModel:
    """A model that no worker asks before `open_until`, since it failed so many times in a row."""

    model: str
    reason: str
    failures: int
    open_until: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """The queue, the workers, the triggers whose work nobody takes, and the models that fail; at most 100 of each."""

    queue: QueueNumbers
    workers: list[WorkerRow]
    unserved: list[UnservedTrigger]
    failing_models: list[FailingModel]


async def read_overview(
    conn: AsyncConnection[Any], *, lease_timeout: timedelta, now: datetime | None = None
) -> Overview:
    """The numbers of the queue, the workers, the triggers whose work nobody takes, and the models that fail.

    Args:
        lease_timeout: A worker whose heartbeat is older than this does not count as live.
    """
    at = {"lease_timeout": lease_timeout, "now": now}
    (queue,) = await fetch(conn, "queue_numbers", {"count_limit": COUNT_LIMIT, "now": now})
    workers = await fetch(conn, "list_workers", {**at, "limit": LIST_LIMIT})
    unserved = await fetch(conn, "unserved_triggers", {**at, "limit": LIST_LIMIT})
    return Overview(
        queue=QueueNumbers(**queue),
        workers=[WorkerRow(**row) for row in workers],
        unserved=[UnservedTrigger(**row) for row in unserved],
        failing_models=[FailingModel(**row) for row in await fetch(conn, "failing_models", {"limit": LIST_LIMIT})],
    )


def describe_problems(overview: Overview) -> list[str]:
    """What is wrong, one sentence each, with what to do about it. Dead letters are shown, but are no problem of the
    system: the trigger that made them is."""
    problems: list[str] = []
    idle_apps = sorted({row.app for row in overview.unserved if not row.app_is_live})
    problems.extend(
        f"app {app!r} has due deliveries and no live worker; start one with `reflex worker --app {app}`"
        for app in idle_apps
    )
    problems.extend(
        f"trigger {row.trigger!r} of app {row.app!r} has due deliveries, but no live worker of that app knows it; "
        + ("its code is gone: deploy it again" if row.retired else "start a worker with the code that has it")
        for row in overview.unserved
        if row.app_is_live
    )
    queue = overview.queue
    if queue.oldest_pending_s is not None and queue.oldest_pending_s > LONG_WAIT_S and not overview.unserved:
        problems.append(
            f"the oldest due delivery has waited {queue.oldest_pending_s:.0f} s; the workers do not keep up: "
            "start more, or give them more slots (REFLEX_CONCURRENCY)"
        )
    silent = [worker for worker in overview.workers if not worker.live]
    problems.extend(
        f"worker {worker.id} ({worker.host}, pid {worker.pid}) has sent no heartbeat for "
        f"{worker.heartbeat_age_s:.0f} s and holds {worker.running} deliveries; any live worker will free them"
        for worker in silent
    )
    if queue.orphaned:
        problems.append(
            f"{queue.orphaned} running deliveries belong to workers that are gone; any live worker will free them"
        )
    if queue.held_keys:
        problems.append(
            f"{queue.held_keys} keys of ordered triggers are held by a dead letter each, and what came after it waits: "
            "retry or purge it (reflex dead-letters list)"
        )
    problems.extend(
        f"the model {row.model!r} has failed {row.failures} times in a row; its deliveries wait until "
        f"{row.open_until:%H:%M:%S %Z}, when one of them tries again: {row.reason}"
        for row in overview.failing_models
    )
    return problems

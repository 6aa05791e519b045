"""Workers, and deliveries that nobody takes. The limits are those of deploy/prometheus/alerts.yml: a test compares."""

from collections.abc import Sequence
from typing import Final

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, number, seconds
from reflex.core.figures import read_figures
from reflex.core.overview import Overview, UnservedTrigger, WorkerRow, read_overview
from reflex.core.reads import COUNT_LIMIT, fetch
from reflex.core.series import Labels, Reading

__all__ = ["DEAD_LETTERS", "DELIVERIES", "FOLLOWERS", "LOG", "MODELS", "WORKERS", "judge_deliveries", "judge_workers"]

# ReflexWorkerSilent, ReflexOldestPending and ReflexLogBehind.
SILENT_S: Final = 30.0
LONG_PENDING_S: Final = 300.0
LOG_BEHIND_S: Final = 30.0
# For so long ReflexNoLiveWorker waits, for a worker that is being replaced.
UNSERVED_S: Final = 120.0


async def look_at_workers(installation: Installation) -> Looked:
    overview = await read_overview(installation.connection, lease_timeout=installation.lease_timeout)
    live = [worker for worker in overview.workers if worker.live]
    apps = sorted({worker.app for worker in live})
    slots = sum(worker.slots for worker in live)
    says = f"{number(len(live), 'worker')} with {number(slots, 'slot')}" if live else "none is alive"
    figures = await read_figures(installation.connection, lease_timeout=installation.lease_timeout)
    ownerless = value(figures, "reflex_ownerless_runs")
    return Looked(
        says + (f", of {', '.join(apps)}" if apps else ""),
        judge_workers(overview.workers, ownerless=int(ownerless)),
    )


def judge_workers(workers: Sequence[WorkerRow], *, ownerless: int) -> list[Problem]:
    """`ownerless`: running deliveries without a live worker. Pure."""
    live = any(worker.live for worker in workers)
    problems = [
        Problem(
            Level.WARNING,
            f"worker {worker.id} of {worker.app} has sent no heartbeat for {seconds(worker.heartbeat_age_s)}",
            f"It holds {number(worker.running, 'delivery', 'deliveries')}. It is frozen, cut off from PostgreSQL or "
            "gone, and nobody has freed what it holds: any live worker does.",
            [
                f"kill -KILL {worker.pid}  # on {worker.host}, if it is still there",
                *([] if live else [start(worker.app)]),
            ],
        )
        for worker in workers
        if worker.heartbeat_age_s > SILENT_S
    ]
    if ownerless and not live:
        problems.append(
            Problem(
                Level.ERROR,
                f"{number(ownerless, 'run')} without a live owner, and no worker that would free them",
                "They stay as they are until a worker, of whatever app, starts.",
                [start("MODULE")],
            )
        )
    elif ownerless:
        problems.append(
            Problem(
                Level.WARNING,
                f"{number(ownerless, 'run')} without a live owner",
                "The other workers free them within seconds. If that is still so in a minute, look at their logs.",
                ["reflex doctor --only workers  # in a minute"],
            )
        )
    if not workers:
        problems.append(
            Problem(
                Level.NOTE,
                "no worker is running",
                "Events are taken, and wait.",
                [start("MODULE")],
            )
        )
    return problems


def start(app: str) -> str:
    return f"reflex worker --app {app}"


async def look_at_deliveries(installation: Installation) -> Looked:
    overview = await read_overview(installation.connection, lease_timeout=installation.lease_timeout)
    figures = await read_figures(installation.connection, lease_timeout=installation.lease_timeout)
    oldest = by_labels(figures, "reflex_oldest_pending_seconds")
    queue = overview.queue
    about = "about " if queue.estimated else ""
    says = f"{about}{queue.pending:,} pending, {queue.running:,} running, {queue.scheduled:,} scheduled"
    return Looked(says, judge_deliveries(overview, oldest))


def judge_deliveries(overview: Overview, oldest: dict[Labels, float]) -> list[Problem]:
    """`oldest`: for how many seconds the oldest due delivery of (app, trigger) has waited. Pure."""
    unserved = {(row.app, row.trigger) for row in overview.unserved}
    problems = [judge_unserved(row, oldest.get((row.app, row.trigger), 0)) for row in overview.unserved]
    problems += [
        Problem(
            Level.WARNING,
            f"a delivery of {trigger} ({app}) has waited for {seconds(waited)}",
            "The workers of this app do not keep up, or what they run hangs.",
            [f"reflex worker --app {app}  # one more, or more slots: REFLEX_CONCURRENCY"],
        )
        for (app, trigger), waited in sorted(oldest.items())
        if waited > LONG_PENDING_S and (app, trigger) not in unserved
    ]
    if overview.queue.unrouted:
        problems.append(
            Problem(
                Level.NOTE,
                f"{number(overview.queue.unrouted, 'event')} that no trigger wants",
                "They are kept; a trigger that is registered for the first time and matches picks them up.",
                ["curl http://GATEWAY/event-types  # which types, and how many of each"],
            )
        )
    return problems


def judge_unserved(row: UnservedTrigger, waited_s: float) -> Problem:
    level = Level.ERROR if waited_s > UNSERVED_S else Level.WARNING
    if not row.app_is_live:
        return Problem(
            level,
            f"deliveries of {row.trigger} wait, and no worker of app {row.app} is alive",
            f"The oldest has waited for {seconds(waited_s)}. Nothing takes them until one starts.",
            [start(row.app)],
        )
    return Problem(
        level,
        f"deliveries of {row.trigger} wait, and no live worker of app {row.app} knows it",
        "Its code is gone: the trigger was removed or renamed with work pending."
        if row.retired
        else "The workers that run have other code than the one that registered it.",
        ["Deploy the code that has the trigger, or end what is left: reflex cancel DELIVERY"],
    )


async def look_at_dead_letters(installation: Installation) -> Looked:
    figures = await read_figures(installation.connection, lease_timeout=installation.lease_timeout)
    dead: dict[Labels, float] = {}
    for (app, trigger, _), count in by_labels(figures, "reflex_dead_letters").items():
        dead[app, trigger] = dead.get((app, trigger), 0) + count
    held = by_labels(figures, "reflex_held_keys")
    return Looked("none", [judge_dead(of[0], of[1], count, held.get(of, 0)) for of, count in sorted(dead.items())])


def judge_dead(app: str, trigger: str, count: float, held: float) -> Problem:
    """`held`: keys that stand still behind one of them."""
    of = f"--app {app} --trigger {trigger}"
    return Problem(
        Level.WARNING,
        ("at least " if count >= COUNT_LIMIT else "")
        + f"{number(count, 'dead letter')} of {trigger} ({app})"
        + (f"; {number(held, 'key')} held" if held else ""),
        "They are not tried again by themselves." + (" Nothing goes on of the keys that are held." if held else ""),
        [
            f"reflex dead-letters list {of}",
            "reflex dead-letters show ID  # the error, and all runs",
            f"reflex dead-letters retry {of}  # once the cause is gone; or purge",
        ],
    )


async def look_at_models(installation: Installation) -> Looked:
    overview = await read_overview(installation.connection, lease_timeout=installation.lease_timeout)
    problems = [
        Problem(
            Level.WARNING,
            f"the model {row.model} has failed {number(row.failures, 'time')} in a row",
            f"Its deliveries wait until {row.open_until:%H:%M:%S %Z}, and keep their attempts; then one tries again. "
            f"It said: {' '.join(row.reason.split())[:300]}",
            ["Nothing, if its provider is down. A rate limit wants fewer slots (REFLEX_CONCURRENCY)."],
        )
        for row in overview.failing_models
    ]
    return Looked("none that was asked fails", problems)


# What a gateway calls the connection over which it follows the log, and a worker of which runs wait for events.
FOLLOWERS: Final = ("reflex gateway: follow", "reflex awaiting")


async def look_at_log(installation: Installation) -> Looked:
    conn = installation.connection
    figures = await read_figures(conn, lease_timeout=installation.lease_timeout)
    lag, unplaced = value(figures, "reflex_log_placing_lag_seconds"), value(figures, "reflex_log_unplaced_appends")
    (row,) = await fetch(conn, "check_followers", {"names": list(FOLLOWERS)})
    followers: int = row["followers"]
    if not unplaced:
        return Looked("every event has its place")
    if not followers:
        return Looked(f"{number(unplaced, 'append')} without a place, and nobody reads")
    problems: list[Problem] = []
    if lag > LOG_BEHIND_S:
        problems.append(
            Problem(
                Level.WARNING,
                f"the log is {seconds(lag)} behind, with {number(followers, 'connection')} that should follow it",
                "Events that were committed have no place in it yet, and live readers do not get them.",
                ["reflex doctor --only transactions  # is one that appended still open?",
                 "Look for \"live readers wait\" in the logs of the gateways."],
            )
        )  # fmt: skip
    return Looked(f"{number(unplaced, 'append')} without a place, the oldest for {seconds(lag)}", problems)


def by_labels(figures: Sequence[Reading], name: str) -> dict[Labels, float]:
    """The readings of one name, none of which is a distribution."""
    return {each.labels: each.value for each in figures if each.name == name and isinstance(each.value, float)}


def value(figures: Sequence[Reading], name: str) -> float:
    """Of a reading without labels."""
    return by_labels(figures, name).get((), 0.0)


WORKERS: Final = Check("workers", "who is alive, and what do the others hold", Need.SCHEMA, look_at_workers)
DELIVERIES: Final = Check("deliveries", "is what is due taken", Need.SCHEMA, look_at_deliveries)
DEAD_LETTERS: Final = Check("dead-letters", "does anything wait for a person", Need.SCHEMA, look_at_dead_letters)
LOG: Final = Check("log", "do live readers get what was stored", Need.SCHEMA, look_at_log)
MODELS: Final = Check("models", "which models fail", Need.SCHEMA, look_at_models)

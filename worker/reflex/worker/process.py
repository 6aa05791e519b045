"""One worker process: load the app, register it, live one incarnation after another, drain when told to stop.

The composition root of the worker: everything is wired here and nowhere else.
"""

import asyncio
import os
import random
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection

from reflex.agent.app import App, load_app
from reflex.agent.cancel_on import Canceller
from reflex.agent.models import Models, resolve_models
from reflex.agent.publishing import RunLimits
from reflex.core import telemetry
from reflex.core.awaiting import AWAIT_CHANNEL
from reflex.core.cancelling import CANCEL_CHANNEL
from reflex.core.circuits import Circuits
from reflex.core.database import answered_within, connect, describe, is_connection_error
from reflex.core.errors import ConfigurationError
from reflex.core.ids import new_id
from reflex.core.journal import StepStore
from reflex.core.log import WAKE_CHANNEL
from reflex.core.log_reading import LOG_CHANNEL
from reflex.core.registration import REGISTRY_CHANNEL, Registered, register
from reflex.core.settings import Settings
from reflex.core.workers import Incarnation, dismiss, enlist
from reflex.worker.attempt import Attempts
from reflex.worker.awaiting import Awaiting
from reflex.worker.cancelling import Cancelled, Cancelling, TakingAway
from reflex.worker.claim_loop import ClaimLoop
from reflex.worker.heartbeat import Heartbeat
from reflex.worker.inboxes import Inboxes
from reflex.worker.interrupting import Interrupting
from reflex.worker.maintenance import Maintenance
from reflex.worker.metrics import WorkerMetrics
from reflex.worker.progress import ProgressPublisher
from reflex.worker.showing import metrics_wanted, shown
from reflex.worker.stopping import Stopping
from reflex.worker.timers import Timers
from reflex.worker.wakeup import listen

__all__ = ["work"]

# What the last settling may take after the grace, before the process ends without it.
LAST_SETTLE_S: Final = 5.0
ANSWER_S: Final = 30.0

T = TypeVar("T")


async def work(settings: Settings, app: App | None = None) -> None:
    """Run one worker until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: A setting, or the app, is wrong.
    """
    url = settings.require_database_url()
    if app is None:
        if not settings.app:
            raise ConfigurationError("REFLEX_APP is not set: it names the app's module, as in REFLEX_APP=shop.agents")
        app = load_app(settings.app, default_model=settings.default_model)
    models = resolve_models(app, settings.default_model, timeout_s=settings.model_timeout_s)
    if telemetry.enabled():
        instrument_agents(include_content=settings.trace_content)
    log = structlog.get_logger()
    stopping = Stopping(settings.drain_grace_s)
    metrics = WorkerMetrics(app.name) if metrics_wanted(settings) else None
    with stopping.installed(), shown(settings, metrics.read) if metrics is not None else nullcontext():
        registered = await patiently(url, stopping, lambda conn: register(conn, app.manifest()))
        if registered is None:
            return
        log.info(
            "worker is ready", app=app.name, triggers=sorted(registered.trigger_ids),
            schedules=sorted(registered.schedule_ids),
            concurrency=settings.concurrency, database=describe(url), pid=os.getpid(),
        )  # fmt: skip
        steps = StepStore(url)
        models.circuits = Circuits(steps, threshold=settings.circuit_failures)
        models.meter = metrics.answered if metrics is not None else None
        try:
            while not stopping.asked.is_set():
                await live(url, settings, app, models, registered, steps, stopping, metrics)
        finally:
            await steps.aclose()
            await models.aclose()
    log.info("worker has stopped")


def instrument_agents(*, include_content: bool) -> None:
    """Spans of model requests and tool calls, which pydantic-ai writes itself. An app without it is left without."""
    if "pydantic_ai.agent" in sys.modules:
        from pydantic_ai import Agent, InstrumentationSettings

        Agent.instrument_all(InstrumentationSettings(include_content=include_content))


async def patiently(url: str, stopping: Stopping, action: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T | None:
    """Do it on a connection of its own, waiting for a database that is not there yet. None: told to stop meanwhile."""
    while not stopping.asked.is_set():
        try:
            async with await connect(url, name="reflex worker") as conn:
                with answered_within(ANSWER_S, conn):
                    return await action(conn)
        except psycopg.errors.UndefinedTable:
            raise ConfigurationError("the database has no Reflex schema yet: run `reflex migrate` first") from None
        except (psycopg.Error, OSError) as error:
            if not is_connection_error(error):
                raise
            structlog.get_logger().warning("waiting for the database", database=describe(url), error=str(error).strip())
            await stopping.wait(1 + random.random())  # noqa: S311 (jitter)
    return None


async def live(
    url: str,
    settings: Settings,
    app: App,
    models: Models,
    registered: Registered,
    steps: StepStore,
    stopping: Stopping,
    metrics: WorkerMetrics | None,
) -> None:
    """One incarnation: from enlisting until it is told to stop, or was declared dead while it was frozen."""
    worker_id = new_id()
    triggers = {registered.trigger_ids[trigger.name]: trigger for trigger in app.triggers}
    incarnation = Incarnation(
        worker_id, registered.app_id, tuple(triggers), socket.gethostname(), os.getpid(), settings.concurrency,
        tuple(registered.schedule_ids.values()),
    )  # fmt: skip
    progress = ProgressPublisher(url)
    cancelled = Cancelled({trigger_id: trigger.name for trigger_id, trigger in triggers.items()})
    inboxes = Inboxes(triggers, steps, cancelled)
    loop = ClaimLoop(
        url,
        worker_id=worker_id,
        trigger_ids=tuple(triggers),
        ordered_ids=[trigger_id for trigger_id, trigger in triggers.items() if trigger.ordered],
        beside=[trigger_id for trigger_id, trigger in triggers.items() if isinstance(trigger.agent, Canceller)],
        trigger_names={trigger_id: trigger.name for trigger_id, trigger in triggers.items()},
        concurrency=settings.concurrency,
        poll_interval_s=settings.poll_interval_s,
        answer_within_s=2 * settings.lease_timeout_s,
        attempt=Attempts(
            triggers=triggers,
            models=models,
            worker_id=worker_id,
            limits=RunLimits(
                max_depth=settings.max_depth,
                max_published=settings.max_published,
                max_payload_bytes=settings.max_payload_bytes,
                max_nesting=settings.max_nesting,
                max_output_bytes=settings.max_output_bytes,
                max_state_bytes=settings.max_state_bytes,
                max_memory_bytes=settings.max_memory_bytes,
                max_step_bytes=settings.max_step_bytes,
                private_webhooks=settings.webhook_private,
            ),
            steps=steps,
            audience=progress,
            cancelled=cancelled,
            inboxes=inboxes,
        ),
        cancelled=cancelled,
        inboxes=inboxes,
        metrics=metrics,
    )
    listening_url = settings.require_direct_url()
    awaiting = Awaiting(listening_url)
    cancelling = Cancelling(worker_id, grace_s=settings.lease_timeout_s, stop=loop.cancel)
    maintenance = Maintenance(
        url, lease_timeout_s=settings.lease_timeout_s, periods=settings.periods(),
        cancel=cancelling.carry_out, on_awaited=awaiting.wake,
        on_reaped=metrics.reaped.add if metrics is not None else None,
    )  # fmt: skip
    timers = Timers(url, schedule_ids=incarnation.schedule_ids, poll_interval_s=settings.poll_interval_s)
    await patiently(url, stopping, lambda conn: enlist(conn, incarnation))
    if stopping.asked.is_set():
        await dismissed(url, incarnation)
        return
    declared_dead = asyncio.Event()
    event_loop = asyncio.get_running_loop()
    heartbeat = Heartbeat(
        url,
        worker_id=worker_id,
        lease_timeout_s=settings.lease_timeout_s,
        on_declared_dead=lambda: event_loop.call_soon_threadsafe(declared_dead.set),
        on_overdue=TakingAway(url, grace_s=settings.lease_timeout_s).begin,
    )
    heartbeat.start()

    def registry_changed() -> None:
        maintenance.wake()
        timers.wake()

    channels = {
        WAKE_CHANNEL: loop.wake,
        REGISTRY_CHANNEL: registry_changed,
        AWAIT_CHANNEL: awaiting.wake,
        CANCEL_CHANNEL: lambda: maintenance.wake("cancel"),
    }
    interrupting = Interrupting(triggers, loop.slots, steps)
    if interrupting.triggers:
        inboxes.on_begun = interrupting.wake

        def appended() -> None:
            loop.wake()
            interrupting.wake()

        # What is appended to a lane that runs is told to the readers of the log: no worker could claim it.
        channels |= {WAKE_CHANNEL: appended, LOG_CHANNEL: interrupting.wake}
    listening = listen(listening_url, channels, watch=progress.watch)
    background = [asyncio.create_task(part) for part in (listening, maintenance.run(), awaiting.run())]
    if incarnation.schedule_ids:
        background.append(asyncio.create_task(timers.run()))
    if interrupting.triggers:
        background.append(asyncio.create_task(interrupting.run()))
    claiming = asyncio.create_task(loop.run())
    signals = [asyncio.create_task(event.wait()) for event in (stopping.asked, declared_dead)]
    try:
        await asyncio.wait([claiming, *background, *signals], return_when=asyncio.FIRST_COMPLETED)
        if stopping.asked.is_set() and not declared_dead.is_set():
            structlog.get_logger().info("draining: no more claims", running=len(loop.slots.running))
            await loop.drain(settings.drain_grace_s, stopping.hurry)
            await asyncio.wait([claiming], timeout=LAST_SETTLE_S)
        elif not declared_dead.is_set():
            for ended in (claiming, *background):
                if ended.done():
                    await ended  # raises what ended it
    finally:
        for part in (claiming, *background, *signals):
            part.cancel()
        await asyncio.gather(claiming, *background, *signals, return_exceptions=True)
        loop.accepting = False
        await loop.slots.stop()
        await progress.aclose()
        heartbeat.stop()
    if stopping.asked.is_set() and not declared_dead.is_set():
        await dismissed(url, incarnation)


async def dismissed(url: str, incarnation: Incarnation) -> None:
    try:
        async with asyncio.timeout(LAST_SETTLE_S), await connect(url, name="reflex worker") as conn:
            await dismiss(conn, incarnation.worker_id)
    except (psycopg.Error, OSError, TimeoutError) as error:
        structlog.get_logger().warning("could not sign off; the reaper will", error=str(error).strip())

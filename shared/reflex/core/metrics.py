"""The metrics of Reflex in one table: names, kinds, units, labels. What is recorded, shown, charted and alarmed on is
looked up here, so a name that is not in it is an error at once.

Labels have few values by design: apps, triggers, states, outcomes and codes of errors come from code, models from
agents, types of events from clients (and are capped, see `series`). No label holds an id, a key or an address.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["FAMILIES", "Family", "Kind", "Origin"]


class Kind(StrEnum):
    """What a number means: one that only grows, one that comes and goes, or how many were how large."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Origin(StrEnum):
    """Who shows it. What is known of the database is shown by every gateway, and is the same in all of them: take the
    `max` of it, never the `sum`."""

    GATEWAY = "gateway"
    WORKER = "worker"
    DATABASE = "database"


# Seconds. A commit takes milliseconds, a call of a model seconds, an agent with tools minutes.
FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `unit` is as OpenTelemetry (UCUM) writes it; the name says it, too. `buckets` are upper bounds."""

    name: str
    kind: Kind
    origin: Origin
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def counter(name: str, origin: Origin, unit: str, help: str, *labels: str) -> Family:
    return Family(name, Kind.COUNTER, origin, unit, help, labels)


def gauge(name: str, origin: Origin, unit: str, help: str, *labels: str) -> Family:
    return Family(name, Kind.GAUGE, origin, unit, help, labels)


def histogram(name: str, origin: Origin, buckets: tuple[float, ...], help: str, *labels: str) -> Family:
    return Family(name, Kind.HISTOGRAM, origin, "s", help, labels, buckets)


GATEWAY, WORKER, DATABASE = Origin.GATEWAY, Origin.WORKER, Origin.DATABASE
TRIGGER: Final = ("app", "trigger")

LIST: Final = (
    # A gateway, since it started.
    counter(
        "reflex_events_accepted_total", GATEWAY, "{event}",
        "Events that were stored. Types that no app registered share 'other' once there are many.", "type",
    ),
    counter(
        "reflex_events_duplicate_total", GATEWAY, "{event}",
        "Events that the log had already: their idempotency key was used before. Nothing was stored.",
    ),
    counter(
        "reflex_publishes_refused_total", GATEWAY, "{request}",
        "Events, frames and webhooks that were refused, a batch as one, by the code of the problem document.", "reason",
    ),
    histogram(
        "reflex_ingest_duration_seconds", GATEWAY, FAST,
        "From events that passed all checks to the commit that holds them; one for each request or frame.",
    ),
    gauge("reflex_buffered_events", GATEWAY, "{event}", "Events that wait for their commit."),
    gauge("reflex_connections", GATEWAY, "{connection}", "Clients that are connected: websocket or sse.", "kind"),
    gauge(
        "reflex_subscriptions", GATEWAY, "{subscription}",
        "Readers of the log. A WebSocket has one for its replies, and one for each of its subscriptions.",
    ),
    # A worker, since it started. With several processes, the sums over all of them.
    counter(
        "reflex_runs_total", WORKER, "{run}",
        "Runs that were settled, by outcome; 'retry' failed and has another attempt.", *TRIGGER, "outcome",
    ),
    counter(
        "reflex_deliveries_died_total", WORKER, "{delivery}",
        "Deliveries that became dead letters when a run of theirs was settled.", *TRIGGER, "reason",
    ),
    histogram(
        "reflex_run_duration_seconds", WORKER, SLOW,
        "How long runs took that the filter let through, whatever their outcome.", *TRIGGER,
    ),
    histogram(
        "reflex_exchange_duration_seconds", WORKER, FAST,
        "Round trips to the database that claim deliveries, settle runs, or both.", "app", "kind",
    ),
    counter(
        "reflex_outcomes_discarded_total", WORKER, "{run}",
        "Outcomes that came too late: the lease was lost to another worker. They changed nothing.", "app",
    ),
    counter(
        "reflex_leases_reaped_total", WORKER, "{delivery}",
        "Deliveries that this worker freed from workers that are gone, of any app.",
    ),
    gauge("reflex_slots", WORKER, "{slot}", "Places for runs: used or free.", "app", "state"),
    counter("reflex_model_requests_total", WORKER, "{request}", "Answers of models, without what a journal replayed.",
            *TRIGGER, "model"),
    counter("reflex_model_tokens_total", WORKER, "{token}", "Tokens: input or output.", *TRIGGER, "model", "direction"),
    counter(
        "reflex_model_cost_usd_total", WORKER, "USD",
        "What these answers cost, as far as their prices are known.", *TRIGGER, "model",
    ),
    # What the database says, shown by gateways, at most some seconds old.
    gauge("reflex_database_up", DATABASE, "1", "1 if the database answered; if it is 0, what follows is missing."),
    gauge(
        "reflex_deliveries", DATABASE, "{delivery}",
        "Open deliveries: pending (due), scheduled (put off), waiting (in the middle of a run) or running. Each is "
        "counted up to 10000; reflex_table_rows goes on.", *TRIGGER, "state",
    ),
    gauge(
        "reflex_oldest_pending_seconds", DATABASE, "s",
        "How long the delivery that has waited longest could have been claimed; 0 if none waits.", *TRIGGER,
    ),
    gauge("reflex_trigger_workers", DATABASE, "{worker}", "Workers with a heartbeat that know the trigger.", *TRIGGER),
    gauge(
        "reflex_dead_letters", DATABASE, "{delivery}",
        "Dead letters that nobody has retried or purged; counted up to 10000 a trigger.", *TRIGGER, "reason",
    ),
    gauge("reflex_held_keys", DATABASE, "{key}", "Keys of ordered triggers that stand still behind a dead letter.",
          *TRIGGER),
    gauge("reflex_workers", DATABASE, "{worker}", "Workers: live, or silent (the heartbeat is late).", "app", "state"),
    gauge("reflex_heartbeat_age_seconds", DATABASE, "s", "The age of the oldest heartbeat of an app's workers.", "app"),
    gauge(
        "reflex_ownerless_runs", DATABASE, "{run}",
        "Running deliveries whose worker has no heartbeat any more. The reaper frees them within seconds.",
    ),
    gauge(
        "reflex_oldest_ownerless_run_seconds", DATABASE, "s",
        "How long ago the oldest running delivery without a live owner was claimed; 0 if there is none.",
    ),
    gauge("reflex_unrouted_events", DATABASE, "{event}", "Events that no trigger wants; counted up to 10000."),
    gauge("reflex_circuit_open", DATABASE, "1", "1 for a model that nobody asks, since its provider fails; 0 for one "
          "that failed and may be asked.", "model"),
    gauge("reflex_log_unplaced_appends", DATABASE, "{append}", "Appends that have no position in the log yet; they get "
          "one when somebody reads. Counted up to 10000."),
    gauge("reflex_log_placing_lag_seconds", DATABASE, "s", "The age of the oldest of these; 0 if there is none."),
    gauge("reflex_partitions_ahead_seconds", DATABASE, "s", "For how long partitions are made ahead; from 0 on there "
          "is none for now.", "table"),
    gauge("reflex_table_rows", DATABASE, "{row}", "Rows of a table, as the planner estimates them.", "table"),
    gauge("reflex_table_dead_tuples", DATABASE, "{row}", "Row versions that vacuum has yet to remove.", "table"),
)  # fmt: skip

FAMILIES: Final[Mapping[str, Family]] = {family.name: family for family in LIST}

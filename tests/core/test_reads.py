"""What the reads say of the log and the queue, against rows that the log and the queue themselves wrote."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from reflex.core import queue
from reflex.core.errors import NotFound
from reflex.core.ids import first_id_at, new_id
from reflex.core.log import append
from reflex.core.overview import describe_problems, read_overview
from reflex.core.pages import QueryRejected, parse_moment
from reflex.core.reads import COUNT_LIMIT, get_event, list_event_types, list_events, list_triggers
from reflex.core.rows import to_json
from reflex.core.settlement import Outcome
from tests.queue_fixtures import claim, enlisted, new_event, publish, settled, shop

LEASE_TIMEOUT = timedelta(seconds=10)


async def settle(db: AsyncConnection[Any], worker_id: UUID, *settlements: Any) -> None:
    await queue.exchange(db, worker_id=worker_id, settlements=settlements, trigger_ids=[], limit=0)


async def test_events_come_newest_first_and_a_cursor_continues_where_the_page_ended(db: AsyncConnection[Any]) -> None:
    """Fails with `<=` for `<` at before_id (a row twice), or without the cursor's own bound."""
    ids = await publish(db, 7)
    seen: list[UUID] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        page = await list_events(db, cursor=cursor, limit=3)
        seen += [event.id for event in page.rows]
        cursor, pages = page.next_cursor, pages + 1
    assert seen == sorted(ids, reverse=True)
    assert pages == 3


async def test_a_last_page_that_is_full_has_no_cursor(db: AsyncConnection[Any]) -> None:
    """Fails when the statement asks for `limit` rows instead of one more."""
    await publish(db, 3)
    assert (await list_events(db, limit=3)).next_cursor is None


async def test_each_filter_narrows_and_filters_combine(db: AsyncConnection[Any]) -> None:
    """Fails with any one condition of list_events.sql removed."""
    wanted = new_event("order.created", source="shop", key="A1", correlation_id="c1")
    others = [
        new_event("order.paid", source="shop", key="A1", correlation_id="c1"),
        new_event("order.created", source="web", key="A1", correlation_id="c1"),
        new_event("order.created", source="shop", key="A2", correlation_id="c1"),
        new_event("order.created", source="shop", key="A1", correlation_id="c2"),
        new_event("orders", source="shop", key="A1", correlation_id="c1"),
    ]
    await append(db, [wanted, *others])

    async def types_of(**filters: Any) -> list[str]:
        return sorted(event.type for event in (await list_events(db, **filters)).rows)

    assert len(await types_of(type="order.created")) == 4
    assert await types_of(type="order.*") == ["order.created"] * 4 + ["order.paid"]
    assert len(await types_of(type="*")) == 6
    assert len(await types_of(source="web")) == 1
    assert len(await types_of(key="A2")) == 1
    assert len(await types_of(correlation_id="c2")) == 1
    both = await list_events(db, type="order.created", source="shop", key="A1", correlation_id="c1")
    assert [event.id for event in both.rows] == [wanted.event_id]


async def test_since_and_until_go_by_when_the_log_took_the_event_not_by_what_the_sender_says(
    db: AsyncConnection[Any],
) -> None:
    """Fails if the filter compares `time`, or if until includes its own moment."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    early, late = (
        new_event()._replace(event_id=UUID(int=first_id_at(noon + timedelta(minutes=m)).int | 1)) for m in (0, 5)
    )
    await append(db, [early._replace(time=noon + timedelta(days=9)), late])
    assert [e.id for e in (await list_events(db, since=noon + timedelta(minutes=1))).rows] == [late.event_id]
    assert [e.id for e in (await list_events(db, until=noon + timedelta(minutes=5))).rows] == [early.event_id]
    assert len((await list_events(db, since=noon, until=noon + timedelta(minutes=6))).rows) == 2


def test_the_first_id_of_a_moment_is_just_below_those_made_then() -> None:
    """Fails if the moment goes in as anything but the milliseconds with which a UUIDv7 begins."""
    now = datetime.now(UTC)
    assert first_id_at(now - timedelta(milliseconds=1)) < new_id() < first_id_at(now + timedelta(seconds=5))


@pytest.mark.parametrize("cursor", ["x", "AAAA", "ÅÄÖ", "A" * 21 + "B", "A" * 23, "AAAAAAAAAAAAAAAAAAAAA!A", "="])
async def test_a_cursor_that_no_page_gave_out_is_refused_by_name(db: AsyncConnection[Any], cursor: str) -> None:
    """Fails without the length check, or without the comparison with its own encoding."""
    with pytest.raises(QueryRejected, match="next_cursor") as refused:
        await list_events(db, cursor=cursor)
    assert refused.value.field == "cursor"


@pytest.mark.parametrize(
    ("filters", "field"), [({"limit": 0}, "limit"), ({"limit": 501}, "limit"), ({"type": "a b"}, "type")]
)
async def test_what_makes_no_sense_is_refused_by_name(
    db: AsyncConnection[Any], filters: dict[str, Any], field: str
) -> None:
    with pytest.raises(QueryRejected) as refused:
        await list_events(db, **filters)
    assert refused.value.field == field


async def test_a_large_payload_is_left_out_of_lists_and_whole_in_the_event(db: AsyncConnection[Any]) -> None:
    """Fails without the second size check: a payload of one letter compresses to almost nothing."""
    large = new_event(payload=json.dumps({"text": "x" * 100_000}))
    await append(db, [large])
    (listed,) = (await list_events(db)).rows
    assert listed.payload is None
    shown = (await get_event(db, large.event_id)).payload
    assert shown is not None
    assert len(shown.text) > 100_000


async def test_a_stored_number_that_python_cannot_hold_does_not_break_the_list(db: AsyncConnection[Any]) -> None:
    """Fails when payloads are decoded on the way: orjson refuses the number, and with it the whole page."""
    await db.execute(
        "INSERT INTO reflex.event (event_id, type, source, time, payload) VALUES (%s, 't', 's', now(), %s)",
        (new_id(), '{"n": 1e400, "m": 123456789012345678901234567890}'),
    )
    (event,) = (await list_events(db)).rows
    assert event.payload is not None
    assert '"m": 123456789012345678901234567890' in to_json(event).decode()


async def test_an_event_without_a_trigger_is_shown_as_unrouted(db: AsyncConnection[Any]) -> None:
    """Fails without the look at `unrouted` in either statement."""
    await shop(db)
    (routed,) = await publish(db)
    (unrouted,) = await publish(db, type="nobody.knows")
    assert {event.id: event.unrouted for event in (await list_events(db)).rows} == {routed: False, unrouted: True}
    assert (await get_event(db, unrouted)).unrouted
    assert not (await get_event(db, routed)).unrouted
    assert (await get_event(db, unrouted)).deliveries == []


async def test_an_event_that_is_not_there_is_not_found(db: AsyncConnection[Any]) -> None:
    with pytest.raises(NotFound):
        await get_event(db, new_id())


async def test_an_event_says_where_each_of_its_deliveries_is(db: AsyncConnection[Any]) -> None:
    """One trigger for each place a delivery can be in. Fails with any branch of event_deliveries.sql removed."""
    names = ["pending", "running", "succeeded", "skipped", "dead", "retrying", "cancelled"]
    registered = await shop(db, dict.fromkeys(names, "order.created"))
    worker_id = await enlisted(db, registered)
    (event_id,) = await publish(db)
    others = [registered.trigger_ids[name] for name in names if name != "pending"]
    leases = {lease.trigger_id: lease for lease in await claim(db, worker_id, others)}
    outcomes = {
        "succeeded": settled(leases[registered.trigger_ids["succeeded"]], output='{"ok": true}', usage='{"tokens": 3}'),
        "skipped": settled(leases[registered.trigger_ids["skipped"]], Outcome.SKIPPED),
        "dead": settled(leases[registered.trigger_ids["dead"]], Outcome.DEAD, error="boom", reason="failed"),
        "retrying": settled(
            leases[registered.trigger_ids["retrying"]], Outcome.RETRY, error="later", retry_in=timedelta(hours=1)
        ),
        "cancelled": settled(leases[registered.trigger_ids["cancelled"]], Outcome.CANCELLED),
    }
    await settle(db, worker_id, *outcomes.values())

    deliveries = {delivery.trigger: delivery for delivery in (await get_event(db, event_id)).deliveries}
    assert {name: delivery.state for name, delivery in deliveries.items()} == {
        "pending": "pending", "running": "running", "succeeded": "succeeded", "skipped": "skipped",
        "dead": "dead", "retrying": "pending", "cancelled": "cancelled",
    }  # fmt: skip
    assert {delivery.app for delivery in deliveries.values()} == {"shop"}
    running = deliveries["running"]
    assert running.worker is not None
    assert (running.worker.id, running.worker.host, running.worker.pid) == (worker_id, "host", 1)
    assert (running.attempt, running.runs) == (1, [])
    assert deliveries["pending"].attempt == 0
    assert deliveries["pending"].available_at is None
    (run,) = deliveries["succeeded"].runs
    assert (run.outcome, run.attempt, run.worker_id) == ("succeeded", 1, worker_id)
    assert run.output is not None
    assert run.usage is not None
    assert run.output.value == {"ok": True}
    assert run.usage.value == {"tokens": 3}
    assert run.duration_ms >= 0
    assert (deliveries["dead"].reason, deliveries["dead"].error) == ("failed", "boom")
    assert deliveries["dead"].died_at is not None
    assert deliveries["retrying"].available_at is not None
    assert [run.error for run in deliveries["retrying"].runs] == ["later"]


async def test_a_delivery_lists_its_attempts_in_order(db: AsyncConnection[Any]) -> None:
    """Fails if runs are ordered by anything but lease_epoch: a retried dead letter begins at attempt 1 again."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    (event_id,) = await publish(db)
    for error in ("first", "second"):
        (lease,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
        await settle(db, worker_id, settled(lease, Outcome.RETRY, error=error, retry_in=timedelta(0)))
        await queue.promote_scheduled(db)
    (delivery,) = (await get_event(db, event_id)).deliveries
    assert [(run.attempt, run.error) for run in delivery.runs] == [(1, "first"), (2, "second")]
    assert (delivery.state, delivery.attempt) == ("pending", 2)


async def test_a_running_delivery_whose_worker_is_gone_names_it_without_a_host(db: AsyncConnection[Any]) -> None:
    """Fails with an inner join of lease and worker: the delivery would be nowhere."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    (event_id,) = await publish(db)
    await claim(db, worker_id, list(registered.trigger_ids.values()))
    await db.execute("DELETE FROM reflex.worker")
    (delivery,) = (await get_event(db, event_id)).deliveries
    assert delivery.state == "running"
    assert delivery.worker is not None
    assert (delivery.worker.id, delivery.worker.host) == (worker_id, None)


async def test_an_event_names_the_events_that_its_runs_published(db: AsyncConnection[Any]) -> None:
    """With and without a correlation id of its own. Fails without coalesce(), and without the causation id."""
    for correlation_id in (None, "checkout-7"):
        cause = new_event(correlation_id=correlation_id)
        shared = correlation_id or str(cause.event_id)
        effect = new_event("order.packed", correlation_id=shared, causation_id=cause.event_id)
        grandchild = new_event("order.sent", correlation_id=shared, causation_id=effect.event_id)
        await append(db, [cause, effect, grandchild])
        follow_ups = (await get_event(db, cause.event_id)).follow_ups
        assert [(event.id, event.type) for event in follow_ups] == [(effect.event_id, "order.packed")]


async def test_types_are_listed_with_their_apps_and_the_unrouted_events_that_wait(db: AsyncConnection[Any]) -> None:
    """Fails if the recursion stops early, or if only registered types are listed."""
    await shop(db)
    await shop(db, {"weigh": "order.created"}, app="warehouse")
    await publish(db, 3, type="zebra.seen")
    await publish(db, 2, type="apple.eaten")
    await publish(db, 1, type="mouse.heard")
    types = await list_event_types(db)
    found = {row.type: ([r.app for r in row.registrations], row.unrouted, row.unrouted_capped) for row in types}
    assert found == {
        "apple.eaten": ([], 2, False),
        "mouse.heard": ([], 1, False),
        "order.created": (["shop", "warehouse"], 0, False),
        "zebra.seen": ([], 3, False),
    }


async def test_unrouted_events_of_one_type_are_counted_up_to_a_thousand(db: AsyncConnection[Any]) -> None:
    await db.execute("INSERT INTO reflex.unrouted SELECT 'many', gen_random_uuid() FROM generate_series(1, 1500)")
    (many,) = await list_event_types(db)
    assert (many.unrouted, many.unrouted_capped) == (1000, True)


async def test_triggers_show_their_patterns_their_backlog_and_who_serves_them(db: AsyncConnection[Any]) -> None:
    """Fails if a worker counts whose heartbeat is late, or one that does not know the trigger."""
    registered = await shop(db, {"pack": "order.created", "audit": "*"})
    worker_id = await enlisted(db, registered)
    await db.execute("UPDATE reflex.worker SET trigger_ids = %s", ([registered.trigger_ids["pack"]],))
    await publish(db, 3)
    first, second = await claim(db, worker_id, [registered.trigger_ids["pack"]], limit=2)
    await settle(
        db, worker_id, settled(first, Outcome.DEAD), settled(second, Outcome.RETRY, retry_in=timedelta(hours=1))
    )
    await claim(db, worker_id, [registered.trigger_ids["audit"]], limit=1)
    audit, pack = await list_triggers(db, lease_timeout=LEASE_TIMEOUT)
    assert (audit.name, audit.app, audit.patterns, audit.live_workers) == ("audit", "shop", ["*"], 0)
    assert (audit.pending, audit.scheduled, audit.running, audit.dead) == (2, 0, 1, 0)
    assert (pack.patterns, pack.max_attempts, pack.live_workers) == (["order.created"], 3, 1)
    assert (pack.pending, pack.scheduled, pack.running, pack.dead, pack.capped) == (1, 1, 0, 1, [])
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert [row.live_workers for row in await list_triggers(db, lease_timeout=LEASE_TIMEOUT, now=later)] == [0, 0]


async def test_a_backlog_is_counted_no_further_than_the_limit(db: AsyncConnection[Any]) -> None:
    await shop(db)
    await db.execute(
        "INSERT INTO reflex.delivery (trigger_id, event_id) SELECT trigger_id, gen_random_uuid() "
        "FROM reflex.trigger, generate_series(1, %s)",
        (COUNT_LIMIT + 5,),
    )
    (pack,) = await list_triggers(db, lease_timeout=LEASE_TIMEOUT)
    assert (pack.pending, pack.capped) == (COUNT_LIMIT, ["pending"])


async def test_the_overview_counts_each_place_and_estimates_what_is_large(db: AsyncConnection[Any]) -> None:
    """Fails if the estimate is used for small tables (it is 0 before the first vacuum), or not for large ones."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    await publish(db, 4)
    await publish(db, type="nobody.knows")
    one, two, _ = await claim(db, worker_id, list(registered.trigger_ids.values()), limit=3)
    await settle(db, worker_id, settled(one, Outcome.DEAD), settled(two, Outcome.RETRY, retry_in=timedelta(hours=1)))
    queue_now = (await read_overview(db, lease_timeout=LEASE_TIMEOUT)).queue
    assert (queue_now.pending, queue_now.scheduled, queue_now.running) == (1, 1, 1)
    assert (queue_now.dead, queue_now.unrouted, queue_now.orphaned, queue_now.estimated) == (1, 1, 0, [])

    await db.execute("INSERT INTO reflex.unrouted SELECT 'many', gen_random_uuid() FROM generate_series(1, 30000)")
    await db.execute("ANALYZE reflex.unrouted")
    queue_now = (await read_overview(db, lease_timeout=LEASE_TIMEOUT)).queue
    assert queue_now.estimated == ["unrouted"]
    assert 25_000 < queue_now.unrouted < 35_000


async def test_the_wait_of_the_oldest_delivery_starts_when_it_could_first_run(db: AsyncConnection[Any]) -> None:
    """Fails if a delivery that was put off, or that is between two attempts, counts from when its event came."""
    registered = await shop(db)
    worker_id = await enlisted(db, registered)
    assert (await read_overview(db, lease_timeout=LEASE_TIMEOUT)).queue.oldest_pending_s is None
    (event_id,) = await publish(db)
    await db.execute("UPDATE reflex.event SET created_at = now() - interval '1 hour'")

    async def oldest() -> float:
        waited = (await read_overview(db, lease_timeout=LEASE_TIMEOUT)).queue.oldest_pending_s
        assert waited is not None
        return waited

    assert 3600 <= await oldest() < 3700
    await db.execute("UPDATE reflex.event SET available_at = now() - interval '10 minutes'")
    assert 600 <= await oldest() < 700
    (lease,) = await claim(db, worker_id, list(registered.trigger_ids.values()))
    await settle(db, worker_id, settled(lease, Outcome.RETRY, retry_in=timedelta(0)))
    await queue.promote_scheduled(db)
    assert await oldest() < 100
    # A scheduled delivery that is overdue waits, too: no worker is there to make it pending.
    await db.execute("DELETE FROM reflex.delivery")
    await db.execute(
        "INSERT INTO reflex.scheduled VALUES (%s, %s, 0, 0, now() - interval '5 minutes')",
        (registered.trigger_ids["pack"], event_id),
    )
    assert 300 <= await oldest() < 400


async def test_the_overview_names_workers_that_are_silent_leases_without_one_and_work_nobody_takes(
    db: AsyncConnection[Any],
) -> None:
    """Fails if a late heartbeat counts as live, or if an orphan needs a worker row to be seen."""
    registered = await shop(db, {"pack": "order.created", "weigh": "order.created"})
    worker_id = await enlisted(db, registered)
    await publish(db, 2)
    await claim(db, worker_id, list(registered.trigger_ids.values()), limit=1)
    seen = await read_overview(db, lease_timeout=LEASE_TIMEOUT)
    (worker,) = seen.workers
    assert (worker.id, worker.app, worker.slots, worker.running, worker.live) == (worker_id, "shop", 10, 1, True)
    assert seen.unserved == []
    assert describe_problems(seen) == []

    later = datetime.now(UTC) + timedelta(seconds=30)
    seen = await read_overview(db, lease_timeout=LEASE_TIMEOUT, now=later)
    assert [worker.live for worker in seen.workers] == [False]
    assert {row.trigger for row in seen.unserved} == {"pack", "weigh"}
    problems = " / ".join(describe_problems(seen))
    assert "app 'shop' has due deliveries and no live worker; start one with `reflex worker --app shop`" in problems
    assert "has sent no heartbeat for 30 s" in problems

    await db.execute("DELETE FROM reflex.worker")
    seen = await read_overview(db, lease_timeout=LEASE_TIMEOUT)
    assert seen.queue.orphaned == 1
    assert "1 running deliveries belong to workers that are gone" in " / ".join(describe_problems(seen))

    # A newer worker of the app that no longer has one of the triggers.
    await enlisted(db, registered)
    await db.execute("UPDATE reflex.worker SET trigger_ids = %s", ([registered.trigger_ids["pack"]],))
    await db.execute("UPDATE reflex.trigger SET retired_at = now() WHERE name = 'weigh'")
    problems = " / ".join(describe_problems(await read_overview(db, lease_timeout=LEASE_TIMEOUT)))
    assert "trigger 'weigh' of app 'shop' has due deliveries, but no live worker of that app knows it" in problems
    assert "deploy it again" in problems


NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("15m", datetime(2026, 1, 31, 11, 45, tzinfo=UTC)),
        ("2h", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("7d", datetime(2026, 1, 24, 12, tzinfo=UTC)),
        ("2026-01-31T09:00:00Z", datetime(2026, 1, 31, 9, tzinfo=UTC)),
        ("2026-01-31T09:00:00+02:00", datetime(2026, 1, 31, 7, tzinfo=UTC)),
        ("2026-01-31T09:00:00 02:00", datetime(2026, 1, 31, 7, tzinfo=UTC)),
    ],
)
def test_a_moment_is_written_as_people_and_programs_do(text: str, moment: datetime) -> None:
    """The last one is a `+` that nobody escaped in a query string. Fails without its repair."""
    assert parse_moment(text, field="since", now=NOW) == moment


@pytest.mark.parametrize("text", ["yesterday", "2026-01-31T09:00:00", "2026-01-31", "5", "-2h", "999999999d", "٣h"])
def test_a_moment_that_could_mean_several_is_refused_by_name(text: str) -> None:
    """Fails if a time without an offset is taken as the server's own."""
    with pytest.raises(QueryRejected) as refused:
        parse_moment(text, field="since", now=NOW)
    assert refused.value.field == "since"

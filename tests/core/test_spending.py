"""Budgets in the database: reserved in all or in none, settled once, given back with the lease, and no deadlock."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.budget_reads import list_budgets, raise_budget
from reflex.core.database import connect
from reflex.core.errors import NotFound
from reflex.core.ids import new_id
from reflex.core.journal import LeaseLost
from reflex.core.queue import exchange
from reflex.core.settlement import Claimed, Outcome
from reflex.core.spending import (
    ANY_TRIGGER,
    Asked,
    Quantity,
    Refused,
    Reservation,
    Scope,
    forget_spend,
    give_back,
    reserve,
    settle_spend,
)
from reflex.core.statements import statement
from reflex.core.waiting import Wait, WaitKind
from tests.processes import eventually
from tests.queue_fixtures import claim, count, enlisted, publish, settled, shop

ONE, TEN = Decimal(1), Decimal(10)
HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)


def a_day(amount: Decimal = ONE, allowed: Decimal = TEN, *, trigger_id: int = 1, zone: str = "UTC") -> Asked:
    quantity = Quantity.REQUESTS
    return Asked(trigger_id, Scope.TRIGGER, "", quantity, f"day in {zone}", zone, None, amount, allowed)


def a_tree(amount: Decimal = ONE, allowed: Decimal = TEN, *, root: str = "root") -> Asked:
    return Asked(ANY_TRIGGER, Scope.TREE, root, Quantity.USD, "", None, None, amount, allowed)


@pytest.fixture
async def lease(db: AsyncConnection[Any]) -> Claimed:
    registered = await shop(db)
    await publish(db)
    (lease,) = await claim(db, await enlisted(db, registered), list(registered.trigger_ids.values()))
    return lease


async def asks(
    conn: AsyncConnection[Any], lease: Claimed, *asked: Asked, **options: Any
) -> Reservation | list[Refused]:
    return await reserve(conn, lease.delivery_id, lease.lease_epoch, asked, **options)


async def granted(conn: AsyncConnection[Any], lease: Claimed, *asked: Asked, **options: Any) -> Reservation:
    answer = await asks(conn, lease, *asked, **options)
    assert isinstance(answer, Reservation), answer
    return answer


async def refused(conn: AsyncConnection[Any], lease: Claimed, *asked: Asked, **options: Any) -> list[Refused]:
    answer = await asks(conn, lease, *asked, **options)
    assert not isinstance(answer, Reservation), answer
    return answer


async def is_held_up(db: AsyncConnection[Any], conn: AsyncConnection[Any]) -> bool:
    asked = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    return await (await db.execute(asked, (conn.info.backend_pid,))).fetchone() is not None


async def stands(conn: AsyncConnection[Any], scope: Scope = Scope.TRIGGER) -> list[tuple[Decimal, Decimal]]:
    """Spent and set aside, window by window."""
    cursor = await conn.execute(
        "SELECT spent, reserved FROM reflex.spend WHERE scope = %s ORDER BY window_at", (scope,)
    )
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def test_a_call_is_granted_in_all_budgets_or_in_none(db: AsyncConnection[Any], lease: Claimed) -> None:
    """Fails if the update does not depend on the verdict: the budget that had room would stay reserved for ever."""
    first = await granted(db, lease, a_day(), a_tree(TEN))
    (full,) = await refused(db, lease, a_day(), a_tree())
    assert (full.asked, full.spent, full.reserved, full.total, full.opens_at) == (1, 0, 10, 10, None)
    assert not full.is_used_up, "the call in flight may come to less"
    assert await stands(db) == [(0, 1)]
    await settle_spend(db, first, {Quantity.REQUESTS: ONE, Quantity.USD: Decimal("9.5")})
    (full,) = await refused(db, lease, a_day(), a_tree())
    assert full.is_used_up
    assert (await stands(db), await stands(db, Scope.TREE)) == ([(1, 0)], [(Decimal("9.5"), 0)])
    await granted(db, lease, a_day(), a_tree(Decimal("0.5")))


async def test_what_is_estimated_at_more_than_the_whole_is_granted_once(
    db: AsyncConnection[Any], lease: Claimed
) -> None:
    """Fails without the exception in `fits`: such a call would never be made. Fails if the exception holds while
    another call is in flight: each of a thousand would be the first."""
    first = await granted(db, lease, a_day(Decimal(25)))
    (full,) = await refused(db, lease, a_day(Decimal(25)))
    assert not full.is_used_up
    await settle_spend(db, first, {Quantity.REQUESTS: Decimal(2)})
    (full,) = await refused(db, lease, a_day(Decimal(25)))
    assert full.is_used_up
    assert await refused(db, lease, a_tree(ONE, Decimal(0))), "nothing is allowed"


async def test_a_settlement_counts_once(db: AsyncConnection[Any], lease: Claimed) -> None:
    """Fails if a settlement that is said again counts again, and if one whose reservation was given back is not
    counted: the call was paid for."""
    first, second = await granted(db, lease, a_day()), await granted(db, lease, a_day())
    await settle_spend(db, first, {Quantity.REQUESTS: ONE})
    await settle_spend(db, first, {Quantity.REQUESTS: ONE}, again=True)
    assert await stands(db) == [(1, 1)]
    await db.execute("DELETE FROM reflex.lease")
    assert await give_back(db, limit=10) == 1
    assert await stands(db) == [(1, 0)]
    await settle_spend(db, second, {Quantity.REQUESTS: ONE})
    assert await stands(db) == [(2, 0)]


async def test_without_its_lease_a_run_reserves_nothing(db: AsyncConnection[Any], lease: Claimed) -> None:
    """Fails without the lock on the lease: a late worker would pay for what another one pays for."""
    await granted(db, lease, a_day())
    late = lease._replace(lease_epoch=lease.lease_epoch + 1)
    with pytest.raises(LeaseLost):
        await asks(db, late, a_day())
    assert await stands(db) == [(0, 1)]


async def test_what_a_living_run_has_set_aside_is_not_given_back(db: AsyncConnection[Any], lease: Claimed) -> None:
    """Fails if give_back looks at the delivery alone, and not at the epoch: after a takeover the reservation of the
    dead worker would stay for as long as the delivery runs."""
    await granted(db, lease, a_day(), a_tree())
    assert await give_back(db, limit=10) == 0
    await db.execute("UPDATE reflex.lease SET lease_epoch = lease_epoch + 1")
    again = lease._replace(lease_epoch=lease.lease_epoch + 1)
    await granted(db, again, a_day())
    assert await give_back(db, limit=10) == 1
    assert (await stands(db), await stands(db, Scope.TREE)) == ([(0, 1)], [(0, 0)])
    assert await count(db, "reservation") == 1


async def test_a_window_ends_by_the_clock_of_the_database(db: AsyncConnection[Any], lease: Claimed) -> None:
    """Fails if the windows of all days are one, or if a day is that of UTC wherever it is asked for. On 29 March 2026
    clocks go forward in Stockholm: the day has 23 hours."""
    await granted(db, lease, a_day(TEN, zone="Europe/Stockholm"), now=NOON)
    (full,) = await refused(db, lease, a_day(zone="Europe/Stockholm"), now=NOON)
    assert full.opens_at == datetime(2026, 3, 29, 22, tzinfo=UTC)
    await granted(db, lease, a_day(TEN, zone="Europe/Stockholm"), now=full.opens_at)
    began = await db.execute("SELECT window_at FROM reflex.spend ORDER BY window_at LIMIT 1")
    assert await began.fetchone() == (datetime(2026, 3, 28, 23, tzinfo=UTC),)
    every = a_day(TEN)._replace(zone=None, every=HOUR, period="1:00:00")
    await granted(db, lease, every, now=NOON + HOUR / 2)
    (full,) = await refused(db, lease, every, now=NOON + HOUR - timedelta(milliseconds=1))
    assert full.opens_at == NOON + HOUR
    await granted(db, lease, every, now=NOON + HOUR)


async def test_two_that_want_the_same_budgets_in_another_order_do_not_deadlock(
    database_url: str, db: AsyncConnection[Any], other: AsyncConnection[Any], lease: Claimed
) -> None:
    """Somebody holds the first budget, and who asks waits for that one first, whatever the order in which it asks.

    Fails without ORDER BY in `locked`: the second budget would be held while waiting for the first.
    """
    day, tree = a_day(), a_tree()
    await granted(db, lease, day, tree)
    row = await (await db.execute("SELECT min(spend_id) FROM reflex.spend")).fetchone()
    assert row
    async with (
        await connect(database_url, name="asks") as third,
        await connect(database_url, name="asks, too") as fourth,
    ):
        async with other.transaction():
            await other.execute("SELECT FROM reflex.spend WHERE spend_id = %s FOR UPDATE", row)
            waiting = [asyncio.create_task(granted(third, lease, tree, day)),
                       asyncio.create_task(granted(fourth, lease, day, tree))]  # fmt: skip
            for conn in (third, fourth):
                await eventually(lambda conn=conn: is_held_up(db, conn), what="one who waits")
            free = await db.execute("SELECT FROM reflex.spend WHERE spend_id > %s FOR UPDATE SKIP LOCKED", row)
            assert len(await free.fetchall()) == 1, "nobody holds the second budget yet"
        await asyncio.gather(*waiting)
    assert await stands(db) == [(0, 3)]


async def test_what_is_set_aside_at_once_is_never_more_than_there_is(
    database_url: str, db: AsyncConnection[Any], lease: Claimed
) -> None:
    """Eight connections ask for one each until they are refused, and settle one in two. Fails if the sums are those of
    the snapshot and not of the locked rows."""
    allowed = Decimal(60)

    async def spender(at: int) -> int:
        made = 0
        async with await connect(database_url, name=f"spender {at}") as conn:
            while True:
                answer = await asks(conn, lease, a_tree(ONE, allowed), a_day(ONE, allowed))
                if not isinstance(answer, Reservation):
                    return made
                made += 1
                if made % 2:
                    await settle_spend(conn, answer, {Quantity.USD: ONE, Quantity.REQUESTS: ONE})

    made = await asyncio.gather(*map(spender, range(8)))
    assert sum(made) == 60
    ((spent, held),) = await stands(db)
    assert (spent + held, [(spent, held)]) == (60, await stands(db, Scope.TREE))


async def test_a_budget_that_is_raised_makes_due_what_waits_for_it(db: AsyncConnection[Any], lease: Claimed) -> None:
    """Fails without end_waits, if the raise is not part of what is allowed, and if the deliveries of another tree are
    woken."""
    root = str(lease.event_id)
    first = await granted(db, lease, a_tree(TEN, root=root))
    await settle_spend(db, first, {Quantity.USD: TEN})
    (full,) = await refused(db, lease, a_tree(root=root))
    parked = settled(lease, Outcome.WAITING, retry_in=HOUR, wait=Wait(WaitKind.BUDGET, "used up", HOUR))
    await exchange(db, worker_id=new_id(), settlements=[parked], trigger_ids=[], limit=0)
    (shown,) = await list_budgets(db)
    assert (shown.id, shown.trigger, shown.scope, shown.subject, shown.spent) == (
        full.spend_id,
        None,
        "tree",
        root,
        TEN,
    )
    another = await db.execute(
        "INSERT INTO reflex.spend (trigger_id, scope, subject, quantity, period, window_at, allowed, expires_at) "
        "VALUES (0, 'tree', 'another', 'usd', '', 'epoch', 10, 'infinity') RETURNING spend_id"
    )
    row = await another.fetchone()
    assert row
    assert (await raise_budget(db, row[0], ONE)).due == 0
    assert await raise_budget(db, full.spend_id, Decimal("2.5")) == ("usd", Decimal("12.5"), 1)
    assert (await count(db, "waiting"), await count(db, "delivery")) == (0, 1)
    worker = await db.execute("SELECT worker_id FROM reflex.worker")
    (again,) = await claim(db, (await worker.fetchall())[0][0], [lease.trigger_id])
    await granted(db, again, a_tree(root=root))
    with pytest.raises(NotFound, match="no budget 99999"):
        await raise_budget(db, 99999, ONE)


async def test_what_nobody_asks_for_any_more_is_forgotten(db: AsyncConnection[Any], lease: Claimed) -> None:
    """Fails if what is set aside is forgotten, too, and if what is still asked for is."""
    await settle_spend(db, await granted(db, lease, a_day(), now=NOON), {Quantity.REQUESTS: ONE})
    await granted(db, lease, a_tree(root="in flight"), now=NOON)
    await settle_spend(db, await granted(db, lease, a_tree(root="over"), now=NOON), {})
    later = NOON + timedelta(days=4)
    await settle_spend(db, await granted(db, lease, a_tree(root="again"), now=NOON), {})
    await settle_spend(db, await granted(db, lease, a_tree(root="again"), now=later), {})
    assert await forget_spend(db, limit=10, now=NOON + timedelta(days=7, hours=-1)) == 0
    assert await forget_spend(db, limit=10, now=NOON + timedelta(days=7, hours=13)) == 2
    left = await db.execute("SELECT subject FROM reflex.spend ORDER BY subject")
    assert await left.fetchall() == [("again",), ("in flight",)]


async def test_nobody_waits_for_the_disk_while_a_budget_is_locked(db: AsyncConnection[Any], lease: Claimed) -> None:
    """Fails without set_config in the statements: the rows of a busy budget would be locked for as long as a commit."""
    reservation = await granted(db, lease, a_day())
    async with db.transaction():
        for name in ("reserve", "settle_spend"):
            await db.execute("SET LOCAL synchronous_commit = on")
            await (granted(db, lease, a_day()) if name == "reserve" else settle_spend(db, reservation, {}))
            shown = await (await db.execute("SHOW synchronous_commit")).fetchone()
            assert shown == ("off",), name
    assert (await (await db.execute("SHOW synchronous_commit")).fetchone()) == ("on",), "for the statement alone"
    assert "set_config" in statement("reserve")

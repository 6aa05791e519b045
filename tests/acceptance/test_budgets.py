"""Budgets with real processes: they hold across workers, what does not fit waits, and what a dead worker has set aside
comes back."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.acceptance.shop import Shop
from tests.agent.stub_provider import silence, text
from tests.processes import eventually
from tests.queue_fixtures import is_quiet

FRUGAL = Path(__file__).with_name("frugal.py")


async def spend(shop: Shop, quantity: str, period: str) -> list[tuple[Decimal, Decimal]]:
    """Spent and set aside, window by window."""
    cursor = await shop.conn.execute(
        "SELECT spent, reserved FROM reflex.spend WHERE quantity = %s AND period = %s ORDER BY window_at",
        (quantity, period),
    )
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def test_fifty_runs_of_two_workers_spend_what_a_window_has_and_all_finish(shop: Shop) -> None:
    """10 requests and 250 tokens in 2 seconds, for 50 requests of 18 tokens each that all come at once.

    Fails if reservations are not asked for (50 in the first window), if each worker has a budget of its own (20), if
    what is refused fails, and if nobody wakes what is parked.
    """

    async def slowly() -> Any:
        await asyncio.sleep(0.05)
        return await text("yes")()

    async with shop.asking(FRUGAL, slowly, FRUGAL="windows") as (provider, start):
        async with start(), start():
            events = await shop.publish(*({"order": n} for n in range(50)))
            seen: list[tuple[Decimal, Decimal]] = []
            while not await is_quiet(shop.conn):
                seen += await spend(shop, "requests", "0:00:02")
                await asyncio.sleep(0.05)
        assert await shop.count("FROM reflex.run WHERE outcome = 'succeeded'") == len(events)
        assert await shop.count("FROM reflex.run WHERE outcome IN ('retry', 'dead', 'lost')") == 0
        assert len(provider.requests) == 50, "nothing is paid for twice"
        assert max(spent + reserved for spent, reserved in seen) == 10, "a window was used up, and no more"
        requests, tokens = await spend(shop, "requests", "0:00:02"), await spend(shop, "tokens", "0:00:02")
        assert (sum(spent for spent, _ in requests), sum(spent for spent, _ in tokens)) == (50, 900)
        assert max(spent for spent, _ in tokens) <= 250
        assert len(requests) >= 5
        assert sum(spent for spent, _ in await spend(shop, "requests", "day")) == 50
        assert {reserved for _, reserved in requests + tokens} == {0}
        assert await shop.count("FROM reflex.run WHERE outcome = 'waiting'") > 0
        assert await shop.count("FROM reflex.reservation") + await shop.count("FROM reflex.waiting") == 0


async def test_what_a_killed_worker_has_set_aside_comes_back(shop: Shop) -> None:
    """The only request of the day is in flight when its worker is killed. Fails without the chore that gives back: the
    delivery would wait until tomorrow."""
    answered = asyncio.Event()
    async with shop.asking(FRUGAL, silence(answered), text("yes"), FRUGAL="one a day") as (provider, start):
        async with start() as first:
            (event_id,) = await shop.publish({"order": 1})
            await eventually(lambda: len(provider.requests) == 1, what="the request")
            assert await spend(shop, "requests", "day") == [(0, 1)]
            await first.kill()
            answered.set()
        async with start():
            await shop.becomes("succeeded", event_id, timeout_s=40)
        assert (await shop.outcomes(event_id))[0] == (1, "lost")
        assert (len(provider.requests), await spend(shop, "requests", "day")) == (2, [(1, 0)])
        assert await shop.count("FROM reflex.reservation") == 0

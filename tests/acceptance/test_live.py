"""What a new event does to the run of its key, with real workers: each policy, and steering across a killed worker."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from reflex.core.log import append
from reflex.core.replies import REPLY_TYPE, WAITED_FOR
from tests.acceptance.shop import Shop
from tests.agent.stub_provider import silence, text, tool_call
from tests.processes import eventually, sessions, worker
from tests.queue_fixtures import new_event

LIVING = Path(__file__).with_name("living.py")
STEERED = Path(__file__).with_name("steered.py")
REPLIES = f"SELECT payload FROM reflex.event WHERE type = '{REPLY_TYPE}' AND payload ->> 'event_id' = %s"
MADE = "FROM reflex.event WHERE type = 'made' AND key = %s"


@dataclass
class Key:
    """One key of the app, which is its policy, too."""

    shop: Shop
    name: str

    async def come(self, *numbers: int) -> list[UUID]:
        """Somebody waits for what comes of each event."""
        events = [new_event(self.name, f'{{"n": {number}}}', key=self.name, reply_to=WAITED_FOR) for number in numbers]
        await append(self.shop.conn, events)
        return [event.event_id for event in events]

    @property
    def file(self) -> Path:
        return self.shop.folder / self.name

    async def begin(self, number: int) -> UUID:
        """A run that goes on until `ends`."""
        self.file.touch()
        (event_id,) = await self.come(number)
        await self.begun(number)
        return event_id

    async def begun(self, number: int) -> None:
        line = f"begin {self.name} {number}"
        await eventually(lambda: line in self.shop.lines("runs.txt"), what=line)

    def ends(self) -> None:
        self.file.unlink()

    async def outcome(self, state: str, event_id: UUID) -> tuple[str, Any, str | None]:
        """How the only run of the event's delivery ended, which its reply says as well: outcome, output, error."""
        delivery = await self.shop.becomes(state, event_id)
        (run,) = delivery.runs
        output = run.output.value if run.output is not None else None
        ((reply,),) = await (await self.shop.conn.execute(REPLIES, [str(event_id)])).fetchall()
        assert (reply["outcome"], reply["output"]) == (run.outcome, output)
        return run.outcome, output, run.error


async def test_what_a_new_event_does_to_the_run_of_its_key(shop: Shop) -> None:
    """One worker, which looks for nothing by itself. What each of these fails without is said there."""
    shutil.copy(LIVING, shop.folder)
    async with worker(shop.database_url, shop.folder, app="living"):
        await asyncio.gather(drops(Key(shop, "drop")), coalesces(Key(shop, "coalesce")), steers(Key(shop, "steer")))
        # By itself: what is appended for others would wake the worker, too.
        await interrupts(Key(shop, "interrupt"))
        await shop.is_quiet()
    assert await shop.count("FROM reflex.step") == 0, "what has ended needs no journal"


async def drops(key: Key) -> None:
    """Fails if what came meanwhile runs, and if what was there before the run is dropped with it."""
    key.file.touch()
    first, before = await key.come(1, 2)
    await key.begun(1)
    meanwhile = await key.come(3, 4)
    key.ends()
    assert await key.outcome("succeeded", first) == ("succeeded", "done", None)
    for event_id in meanwhile:
        dropped = await key.outcome("skipped", event_id)
        assert dropped == ("skipped", None, "dropped: a run of this key was going on")
    assert await key.outcome("succeeded", before) == ("succeeded", "done", None)
    assert await key.shop.count(MADE, key.name) == 2


async def coalesces(key: Key) -> None:
    """Fails if the run that begins does not take what waits with it, or takes what its filter does not want."""
    first = await key.begin(1)
    second, third, unwanted = await key.come(2, 3, 0)
    key.ends()
    assert await key.outcome("succeeded", first) == ("succeeded", [1], None)
    assert await key.outcome("succeeded", second) == ("succeeded", [2, 3], None)
    taken_by = {"taken_by": (await key.shop.delivery(second)).id}
    assert await key.outcome("succeeded", third) == ("succeeded", taken_by, None)
    assert await key.outcome("skipped", unwanted) == ("skipped", None, None)
    assert await key.shop.count(MADE, key.name) == 2


async def steers(key: Key) -> None:
    """Fails if what comes is not taken while the run goes on, or twice; and if what comes in the very last moment, when
    the run asks no more, has no run of its own."""
    first = await key.begin(1)
    second, unwanted, third = await key.come(2, 0, 3)
    key.ends()
    assert await key.outcome("succeeded", first) == ("succeeded", [[], [2, 3], []], None)
    taken_by = {"taken_by": (await key.shop.delivery(first)).id}
    assert await key.outcome("succeeded", second) == ("succeeded", taken_by, None)
    assert await key.outcome("succeeded", third) == ("succeeded", taken_by, None)
    assert await key.outcome("skipped", unwanted) == ("skipped", None, None)
    assert await key.shop.count(MADE, key.name) == 1


async def interrupts(key: Key) -> None:
    """Fails if the worker is not told of what is appended to a lane that runs (it would look once an hour), if what the
    filter does not want interrupts, and if what the cancelled run published is stored."""
    first = await key.begin(1)
    looked = "-- newer_in_lanes%"
    await eventually(lambda: sessions(key.shop.database_url, "reflex journal", looked), what="the look when it began")
    (unwanted,) = await key.come(0)
    (second,) = await key.come(2)
    assert await key.outcome("cancelled", first) == ("cancelled", None, f"interrupted by event {second}")
    assert await key.outcome("skipped", unwanted) == ("skipped", None, None)
    await key.begun(2)
    key.ends()
    assert await key.outcome("succeeded", second) == ("succeeded", "done", None)
    assert await key.shop.count(MADE, key.name) == 1


async def test_a_steered_run_whose_worker_is_killed_sees_the_same_at_the_same_place(shop: Shop) -> None:
    """Killed while the request is in flight that tells of the new event; another one comes before the retry. The retry
    asks for the very same, and what it was not told has a run of its own, which remembers all of it.

    Fails if the request is not told of what came (the second message is missing), if what was taken is not recorded
    (the retry would tell of the third event, too, and earlier), if it is not taken again (it would have a run of its
    own).
    """
    answered = asyncio.Event()
    (shop.folder / "closed").touch()
    script = (tool_call("stock", {"sku": "A"}), silence(answered), text("ship it"), text("sorry"))
    async with shop.asking(STEERED, *script) as (provider, start):
        async with start() as killed:
            first = await said(shop, 1)
            await eventually(lambda: shop.lines("tool.txt") == ["begun"], what="the tool at work")
            second = await said(shop, 2)
            (shop.folder / "closed").unlink()
            await eventually(lambda: len(provider.requests) == 2, what="the second request")
            await killed.kill()
            answered.set()
        third = await said(shop, 3)
        async with start():
            await shop.becomes("succeeded", third, timeout_s=30)
        assert await shop.outcomes(first) == [(1, "lost"), (2, "succeeded")]
        (run,) = (await shop.delivery(second)).runs
        assert run.output is not None
        assert (run.attempt, run.outcome) == (1, "succeeded")
        assert run.output.value == {"taken_by": (await shop.delivery(first)).id}
        asked = [conversation(request) for request in provider.requests]
        assert asked[0] == ["1"]
        assert asked[1:3] == [["1", "stock", "7", "2"]] * 2, "nothing that was paid for is asked for again"
        assert asked[3:] == [["1", "stock", "7", "2", "ship it", "3"]]
        assert shop.lines("tool.txt") == ["begun"]
        assert await shop.count("FROM reflex.step") == 0


async def said(shop: Shop, number: int) -> UUID:
    event = new_event("chat.said", f'{{"n": {number}}}', key="a")
    await append(shop.conn, [event])
    return event.event_id


def conversation(request: dict[str, Any]) -> list[str]:
    """What a request tells, in short."""
    short: list[str] = []
    for message in request["messages"]:
        if message.get("tool_calls"):
            short.append(message["tool_calls"][0]["function"]["name"])
        elif message["role"] == "user":
            short.append(message["content"].partition('"n":')[2].strip("} "))
        elif message["role"] != "system":
            short.append(message["content"])
    return short

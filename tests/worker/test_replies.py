"""What a run returns is an event that finds its way back to who asked; so is what becomes of a run that fails."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from psycopg import AsyncConnection

from reflex.agent.context import AgentContext
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.models import Models
from reflex.agent.publishing import RunLimits
from reflex.agent.signals import Reject
from reflex.agent.triggers import AgentFunction, Trigger
from reflex.core.database import connect
from reflex.core.events import NewEvent
from reflex.core.ids import new_id
from reflex.core.log import append
from reflex.core.queue import exchange, own_leases
from reflex.core.reaping import reap
from reflex.core.replies import REPLY_TYPE, WAITED_FOR
from reflex.core.settlement import Claimed, Outcome, Settlement
from reflex.worker.attempt import Attempts
from tests.queue_fixtures import claim, count, enlisted, new_event, shop

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ANY_ORDER = type_filter("order.*", "reflex.*") & keyword_filter("skip", lambda skip: skip is None)


def lease(type: str = "order.created", payload: dict[str, Any] | None = None, **fields: Any) -> Claimed:
    payload = {"skip": None} | (payload or {})
    claimed = Claimed(7, new_id(), 1, 1, type, "t", "A1", datetime.now(UTC), payload, None, None,
                      2, TRACEPARENT)  # fmt: skip
    return claimed._replace(**fields)


async def attempt(agent: AgentFunction, claimed: Claimed) -> Settlement:
    trigger = Trigger("pack", ANY_ORDER, agent)
    attempts = Attempts({claimed.trigger_id: trigger}, Models(), worker_id=new_id(), limits=RunLimits())
    return await asyncio.create_task(attempts(claimed))  # pyright: ignore[reportArgumentType]


async def answers(ctx: AgentContext) -> dict[str, Any]:
    return {"order": ctx.key, "price": 1.5, "name": "ß"}


async def says_nothing(ctx: AgentContext) -> None:
    return None


async def rejects(ctx: AgentContext) -> None:
    raise Reject("no such customer")


async def publishes(ctx: AgentContext) -> str:
    await ctx.publish("order.packed")
    return "done"


async def test_what_an_agent_returns_is_an_event() -> None:
    """Fails if a reply is not in the same settlement as the outcome, or loses its place in the chain of causes."""
    claimed = lease()
    (reply,) = (await attempt(answers, claimed)).published
    assert reply._replace(event_id=claimed.event_id, payload="") == NewEvent(
        claimed.event_id, REPLY_TYPE, "agent:pack", "A1", None, "", correlation_id=str(claimed.event_id),
        causation_id=claimed.event_id, depth=3, trace_context=TRACEPARENT,
    )  # fmt: skip
    assert orjson.loads(reply.payload) == {
        "delivery_id": str(claimed.delivery_id),
        "trigger": "pack",
        "event_id": str(claimed.event_id),
        "event_type": "order.created",
        "outcome": "succeeded",
        "output": {"order": "A1", "price": 1.5, "name": "ß"},
    }
    (reply,) = (await attempt(answers, lease(correlation_id="c-1"))).published
    assert reply.correlation_id == "c-1"


async def test_an_agent_that_returns_nothing_replies_nothing() -> None:
    """Fails if None counts as an output: every event of an app would write two."""
    assert (await attempt(says_nothing, lease())).published == ()
    assert (await attempt(says_nothing, lease(reply_to="a-session"))).published == ()
    assert (await attempt(answers, lease(payload={"skip": True}))).published == ()


@pytest.mark.parametrize(
    ("agent", "payload", "outcome", "output"),
    [(says_nothing, {}, "succeeded", None), (says_nothing, {"skip": True}, "skipped", None),
     (publishes, {}, "succeeded", "done")],
)  # fmt: skip
async def test_an_event_that_somebody_waits_for_is_answered_by_each_of_its_deliveries(
    agent: AgentFunction, payload: dict[str, Any], outcome: str, output: str | None
) -> None:
    """Fails if only outputs are replies: who waits for three deliveries would wait until the time is up."""
    claimed = lease(payload=payload, reply_to=WAITED_FOR)
    *published, reply = (await attempt(agent, claimed)).published
    assert (reply.type, reply.reply_to, reply.causation_id) == (REPLY_TYPE, WAITED_FOR, claimed.event_id)
    content = orjson.loads(reply.payload)
    assert (content["outcome"], content["output"]) == (outcome, output)
    # What follows from it is not waited for: its replies would be taken for replies to the event itself.
    assert [event.reply_to for event in published] == [None] * len(published)


async def test_what_a_session_asked_for_answers_it_through_all_that_follows() -> None:
    """Fails if what a run publishes does not inherit the session."""
    packed, reply = (await attempt(publishes, lease(reply_to="a-session"))).published
    assert (packed.type, packed.reply_to) == ("order.packed", "a-session")
    assert (reply.type, reply.reply_to) == (REPLY_TYPE, "a-session")


@pytest.mark.parametrize("reply_to", [None, "a-session", WAITED_FOR])
async def test_a_reply_is_not_replied_to(reply_to: str | None) -> None:
    """Fails without the look at the event's type: a trigger on replies would answer itself until the cap on depth."""
    assert (await attempt(answers, lease(REPLY_TYPE, reply_to=reply_to))).published == ()
    assert (await attempt(says_nothing, lease(REPLY_TYPE, reply_to=reply_to))).published == ()


async def test_what_becomes_of_a_dead_letter_is_not_waited_for() -> None:
    """Fails if a dead letter, which carries `wait` so that it is found, asks for an answer to itself."""
    assert (await attempt(says_nothing, lease("reflex.dead_letter", reply_to=WAITED_FOR))).published == ()
    (reply,) = (await attempt(answers, lease("reflex.dead_letter", reply_to=WAITED_FOR))).published
    assert orjson.loads(reply.payload)["event_type"] == "reflex.dead_letter"


@pytest.mark.parametrize("reply_to", [None, "a-session", WAITED_FOR])
async def test_a_failed_run_answers_with_its_dead_letter(reply_to: str | None) -> None:
    """Fails if dead_settlement() does not pass on who asked."""
    (dead,) = (await attempt(rejects, lease(reply_to=reply_to))).published
    assert (dead.type, dead.reply_to) == ("reflex.dead_letter", reply_to)


async def claimed_here(conn: AsyncConnection[Any], **triggers: str) -> Claimed:
    registered = await shop(conn, triggers or {"pack": "order.created"}, max_attempts=1)
    await append(conn, [new_event(payload='{"skip": null}', reply_to="a-session")])
    worker_id = await enlisted(conn, registered)
    (claimed,) = await claim(conn, worker_id, [registered.trigger_ids["pack"]])
    assert await own_leases(conn, worker_id=worker_id) == [claimed]
    return claimed


async def test_a_reply_is_committed_with_its_run_and_is_not_unrouted(database_url: str) -> None:
    """Promise 4. Fails if unrouted events are all that no trigger matches: an operator would be shown every answer.
    Fails, too, if a claim or own_leases() lose `reply_to`; and with a settlement that came too late."""
    async with await connect(database_url, name="test") as conn:
        claimed = await claimed_here(conn)
        late = (await attempt(answers, claimed))._replace(lease_epoch=9)
        await exchange(conn, worker_id=new_id(), settlements=[late], trigger_ids=[], limit=0)
        assert await count(conn, "event") == 1
        settlement = await attempt(publishes, claimed)
        assert settlement.outcome is Outcome.SUCCEEDED
        await exchange(conn, worker_id=new_id(), settlements=[settlement], trigger_ids=[], limit=0)
        query = "SELECT type, reply_to FROM reflex.event WHERE causation_id = %s ORDER BY event_id"
        assert await (await conn.execute(query, [claimed.event_id])).fetchall() == [
            ("order.packed", "a-session"),
            (REPLY_TYPE, "a-session"),
        ]
        # What nobody wants is still shown, though the same statement stored it.
        unrouted = await (await conn.execute("SELECT type FROM reflex.unrouted")).fetchall()
        assert unrouted == [("order.packed",)]


async def test_a_trigger_that_names_replies_gets_them_and_a_star_does_not(database_url: str) -> None:
    """A reply is an event like any other of Reflex's own."""
    async with await connect(database_url, name="test") as conn:
        claimed = await claimed_here(conn, pack="order.created", reads=REPLY_TYPE, all="*")
        await conn.execute("DELETE FROM reflex.delivery")
        settlement = await attempt(answers, claimed)
        await exchange(conn, worker_id=new_id(), settlements=[settlement], trigger_ids=[], limit=0)
        query = "SELECT name FROM reflex.delivery JOIN reflex.trigger USING (trigger_id)"
        assert await (await conn.execute(query)).fetchall() == [("reads",)]


async def test_a_lost_worker_answers_with_a_dead_letter(database_url: str) -> None:
    """Fails if reap() does not pass on who asked: they would wait for somebody who is gone."""
    async with await connect(database_url, name="test") as conn:
        claimed = await claimed_here(conn)
        (reaped,) = await reap(conn, lease_timeout=timedelta(0), now=datetime.now(UTC) + timedelta(hours=1))
        assert (reaped.delivery_id, reaped.dead) == (claimed.delivery_id, True)
        query = "SELECT payload->>'reason', reply_to FROM reflex.event WHERE type = 'reflex.dead_letter'"
        assert await (await conn.execute(query)).fetchall() == [("worker_lost", "a-session")]

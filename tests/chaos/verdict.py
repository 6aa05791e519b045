"""What has to be true when the storm is over. Every check is a query that finds what breaks a promise."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection

from reflex.core.events import pattern_matches
from tests.chaos.churning import PUBLISHES

__all__ = ["fetch", "verdict"]

SHOWN: Final = 5

# A final state is a run that ended the delivery, or a dead letter; `places` are where unfinished ones are.
FINAL: Final = """
SELECT trigger_id, event_id,
       count(*) FILTER (WHERE place = 'run') + count(*) FILTER (WHERE place = 'dead') AS finals,
       count(*) FILTER (WHERE place NOT IN ('run', 'dead')) AS places
FROM (
    SELECT trigger_id, event_id, 'run' AS place FROM reflex.run WHERE outcome IN ('succeeded', 'skipped')
    UNION ALL SELECT trigger_id, event_id, 'dead' FROM reflex.dead_letter
    UNION ALL SELECT trigger_id, event_id, 'pending' FROM reflex.delivery
    UNION ALL SELECT trigger_id, event_id, 'pending' FROM reflex.ordered
    UNION ALL SELECT trigger_id, event_id, 'scheduled' FROM reflex.scheduled
    UNION ALL SELECT trigger_id, event_id, 'leased' FROM reflex.lease
) AS trace
GROUP BY 1, 2
"""

# Succeeded runs against what they published: 1 for each type, and none for a run that failed or was lost.
PUBLISHED: Final = """
SELECT wanted.name || ' of ' || wanted.event_id || ': ' || wanted.type,
       wanted.succeeded, count(child.event_id), min(child.payload->>'attempt'), wanted.attempt
FROM (
    SELECT trigger.name, run.event_id, given.type, bool_or(run.outcome = 'succeeded') AS succeeded,
           max(run.attempt) FILTER (WHERE run.outcome = 'succeeded') AS attempt
    FROM reflex.run
    JOIN reflex.trigger USING (trigger_id)
    JOIN unnest(%(trigger)s::text[], %(type)s::text[]) AS given (name, type) ON given.name = trigger.name
    GROUP BY 1, 2, 3
) AS wanted
LEFT JOIN reflex.event AS child
    ON child.causation_id = wanted.event_id AND child.type = wanted.type AND child.source = 'agent:' || wanted.name
GROUP BY wanted.name, wanted.event_id, wanted.type, wanted.succeeded, wanted.attempt
HAVING count(child.event_id) <> wanted.succeeded::int
    OR (wanted.succeeded AND min(child.payload->>'attempt') <> wanted.attempt::text)
"""

CHECKS: Final[Mapping[str, str]] = {
    "runs whose output is another attempt's": """
        SELECT trigger_id || '-' || event_id, attempt, output->>'attempt' FROM reflex.run
        WHERE outcome = 'succeeded' AND output->>'attempt' <> attempt::text
    """,
    "more attempts than the trigger allows": """
        SELECT trigger_id || '-' || event_id, max(attempt) FROM reflex.run JOIN reflex.trigger USING (trigger_id)
        GROUP BY 1, max_attempts HAVING max(attempt) > max_attempts
    """,
    "dead letters without exactly one event that says so": """
        SELECT letter.trigger_id || '-' || letter.event_id, count(said.event_id)
        FROM reflex.dead_letter AS letter
        JOIN reflex.event AS died USING (event_id)
        LEFT JOIN reflex.event AS said ON said.type = 'reflex.dead_letter' AND said.causation_id = letter.event_id
            AND said.payload->>'dead_letter_id' = letter.trigger_id || '-' || letter.event_id
        WHERE died.type <> 'reflex.dead_letter'
        GROUP BY 1 HAVING count(said.event_id) <> 1
    """,
    "events about dead letters that are none": """
        SELECT event.event_id, event.payload->>'dead_letter_id' FROM reflex.event
        WHERE type = 'reflex.dead_letter' AND NOT EXISTS (
            SELECT FROM reflex.dead_letter WHERE trigger_id || '-' || event_id = event.payload->>'dead_letter_id')
    """,
    "runs that returned something without exactly one reply": """
        SELECT run.trigger_id || '-' || run.event_id, count(reply.event_id)
        FROM reflex.run
        LEFT JOIN reflex.event AS reply ON reply.type = 'reflex.reply' AND reply.causation_id = run.event_id
            AND reply.payload->>'delivery_id' = run.trigger_id || '-' || run.event_id
        WHERE run.outcome = 'succeeded' AND run.output IS NOT NULL
        GROUP BY 1 HAVING count(reply.event_id) <> 1
    """,
    "idempotency keys whose event is not there": """
        SELECT key, event_id FROM reflex.idempotency
        WHERE NOT EXISTS (SELECT FROM reflex.event WHERE event.event_id = idempotency.event_id)
    """,
    "orders that are stored more than once": """
        SELECT payload->>'n', count(*) FROM reflex.event WHERE type = 'order.placed' GROUP BY 1 HAVING count(*) > 1
    """,
    "orders without their idempotency key": """
        SELECT event_id FROM reflex.event WHERE type = 'order.placed'
            AND NOT EXISTS (SELECT FROM reflex.idempotency WHERE idempotency.event_id = event.event_id)
    """,
    "leases, which nobody should hold any more": "SELECT trigger_id || '-' || event_id, worker_id FROM reflex.lease",
}


async def verdict(conn: AsyncConnection[Any], accepted: Mapping[str, UUID]) -> list[str]:
    """What is wrong, with the ids of it."""
    wrong: list[str] = []

    def note(what: str, found: list[Any]) -> None:
        if found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            wrong.append(f"{what}: {', '.join(map(str, found[:SHOWN]))}{more}")

    stored = {id for (id,) in await fetch(conn, "SELECT event_id FROM reflex.event")}
    note("accepted, but not in the log", [(key, str(id)) for key, id in accepted.items() if id not in stored])
    known = dict(await fetch(conn, "SELECT key, event_id FROM reflex.idempotency"))
    note("accepted as another event", [(key, str(id)) for key, id in accepted.items() if known.get(key) != id])

    routes = await fetch(conn, "SELECT pattern, trigger_id FROM reflex.route")
    finals = {(trigger_id, id): (done, open) for trigger_id, id, done, open in await fetch(conn, FINAL)}
    expected = {
        (trigger_id, id)
        for id, type in await fetch(conn, "SELECT event_id, type FROM reflex.event")
        for pattern, trigger_id in routes
        if pattern_matches(pattern, type)
    }
    seen = {key: finals.get(key, (0, 0)) for key in expected | finals.keys()}
    note("deliveries not exactly once in a final state", shown(seen, lambda key: seen[key] != (1, 0)))
    note("deliveries that no trigger asked for", shown(seen, lambda key: key not in expected))
    unrouted = {id for (id,) in await fetch(conn, "SELECT event_id FROM reflex.unrouted")}
    # A reply is an answer: that no trigger wants it is nothing to look into.
    replies = {id for (id,) in await fetch(conn, "SELECT event_id FROM reflex.event WHERE type = 'reflex.reply'")}
    nobody = stored - {id for _, id in expected} - replies
    note("neither delivered nor unrouted", [str(id) for id in nobody - unrouted])
    note("unrouted though delivered", [str(id) for id in unrouted - nobody])

    pairs = [(trigger, type) for trigger, types in PUBLISHES.items() for type in types]
    columns = {"trigger": [trigger for trigger, _ in pairs], "type": [type for _, type in pairs]}
    note("not published exactly once, by the run that succeeded", await fetch(conn, PUBLISHED, columns))
    for what, query in CHECKS.items():
        note(what, await fetch(conn, query))
    return wrong


def shown(seen: Mapping[tuple[int, UUID], tuple[int, int]], broken: Any) -> list[str]:
    return [f"{key[0]}-{key[1]} ({seen[key][0]} final, {seen[key][1]} open)" for key in seen if broken(key)]


async def fetch(conn: AsyncConnection[Any], query: str, values: Any = None) -> list[Any]:
    return await (await conn.execute(query, values)).fetchall()  # pyright: ignore[reportArgumentType]

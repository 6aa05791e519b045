-- Remove the events of the next appends after %(after)s, up to a place of which the order is dropped, with what belongs
-- to them. An event of which a delivery is open or dead, or which a trigger gathers, stays, and the row of its append with
-- it: that is where a later pass finds it again. So does an unrouted one that is just being handed to a trigger.
-- What belongs to an event goes as well if the event is gone already, with the partition it was in.
-- Called by who has the turn (`take_turn`), in a transaction that began before: then no delivery can appear that this
-- snapshot does not see, but from an unrouted event, whose row is locked for that, and not waited for.
-- The tables of deliveries and runs are keyed by trigger first; OFFSET 0 makes the planner look each trigger up instead
-- of joining the whole of a table. A row that is named by its ctid is never updated. Runs are in partitions, each of which
-- has such a ctid: it only says where to look.
-- Where to end is asked after the LIMIT, and once before: between two bounds the planner may sort the whole span.
-- %(dry_run)s only counts.
WITH span AS MATERIALIZED (
    SELECT position, event_ids
    FROM (
        SELECT position, event_ids,
               sum(cardinality(event_ids)) OVER (ORDER BY position) - cardinality(event_ids) AS before
        FROM reflex.log
        WHERE position > %(after)s::bigint
          AND (
              SELECT position FROM reflex.log WHERE position > %(after)s::bigint ORDER BY position LIMIT 1
          ) <= %(position)s::bigint
        ORDER BY position
        LIMIT %(limit)s::bigint
    ) AS ahead
    WHERE before < %(limit)s AND position <= %(position)s
),
member AS MATERIALIZED (
    SELECT span.position, member.event_id
    FROM span
    CROSS JOIN LATERAL unnest(span.event_ids) WITH ORDINALITY AS member (event_id, place)
    WHERE span.position < %(position)s OR member.place <= %(place)s::int
),
found AS MATERIALIZED (
    SELECT event_id, type
    FROM reflex.event
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM member))
),
needed AS MATERIALIZED (
    SELECT mine.event_id
    FROM reflex.trigger
    CROSS JOIN LATERAL (
        SELECT event_id
        FROM reflex.delivery AS t
        WHERE t.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM found))
        UNION ALL
        SELECT event_id
        FROM reflex.scheduled AS t
        WHERE t.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM found))
        UNION ALL
        SELECT event_id
        FROM reflex.lease AS t
        WHERE t.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM found))
        UNION ALL
        SELECT event_id
        FROM reflex.dead_letter AS t
        WHERE t.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM found))
        OFFSET 0
    ) AS mine
    UNION ALL
    SELECT event_id
    FROM reflex.ordered
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM found))
    UNION ALL
    SELECT event_id
    FROM reflex.gathered
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM found))
),
waiting AS MATERIALIZED (
    SELECT event_id, type
    FROM found
    WHERE EXISTS (
        SELECT FROM reflex.unrouted WHERE unrouted.type = found.type AND unrouted.event_id = found.event_id OFFSET 0
    )
),
locked AS MATERIALIZED (
    SELECT mine.ctid, mine.event_id
    FROM waiting
    CROSS JOIN LATERAL (
        SELECT ctid, event_id
        FROM reflex.unrouted
        WHERE unrouted.type = waiting.type AND unrouted.event_id = waiting.event_id AND NOT %(dry_run)s::boolean
        FOR UPDATE SKIP LOCKED
    ) AS mine
),
victim AS MATERIALIZED (
    SELECT event_id
    FROM member
    WHERE event_id NOT IN (TABLE needed)
      AND (%(dry_run)s OR event_id NOT IN (SELECT event_id FROM waiting) OR event_id IN (SELECT event_id FROM locked))
),
spent AS MATERIALIZED (
    SELECT mine.ctid
    FROM reflex.trigger
    CROSS JOIN LATERAL (
        SELECT ctid
        FROM reflex.run AS t
        WHERE t.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM victim))
          AND %(runs)s::boolean
        OFFSET 0
    ) AS mine
),
no_runs AS (
    DELETE FROM reflex.run
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM spent)) AND event_id = ANY(ARRAY(SELECT event_id FROM victim))
      AND NOT %(dry_run)s
),
no_steps AS (
    DELETE FROM reflex.step
    WHERE ctid = ANY(ARRAY(
        SELECT mine.ctid
        FROM reflex.trigger
        CROSS JOIN LATERAL (
            SELECT ctid
            FROM reflex.step AS t
            WHERE t.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM victim))
            OFFSET 0
        ) AS mine
    )) AND NOT %(dry_run)s
),
no_keys AS (
    DELETE FROM reflex.idempotency
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM victim)) AND NOT %(dry_run)s
),
no_waiting AS (
    DELETE FROM reflex.unrouted
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM locked WHERE event_id IN (SELECT event_id FROM victim)))
),
no_events AS (
    DELETE FROM reflex.event
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM victim)) AND NOT %(dry_run)s
),
no_appends AS (
    DELETE FROM reflex.log
    WHERE position = ANY(ARRAY(
        SELECT position
        FROM span
        WHERE (position < %(position)s OR cardinality(event_ids) <= %(place)s)
          AND position NOT IN (
              SELECT member.position
              FROM member
              JOIN found USING (event_id)
              WHERE event_id NOT IN (SELECT event_id FROM victim)
          )
    )) AND NOT %(dry_run)s
)
SELECT (SELECT max(position) FROM span) AS position,
       (SELECT count(*) FROM found WHERE event_id IN (SELECT event_id FROM victim)) AS events,
       (SELECT count(*) FROM found WHERE event_id NOT IN (SELECT event_id FROM victim)) AS needed,
       (SELECT count(*) FROM spent) AS runs

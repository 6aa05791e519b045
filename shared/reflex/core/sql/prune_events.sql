-- Remove the events of the next appends after %(after)s, up to a place of which the order is dropped, with what belongs
-- to them. An event of which a delivery is open or dead, or which a trigger gathers, stays, and the row of its append with
-- it: that is where a later pass finds it again. So does an unrouted one that is just being handed to a trigger.
-- Called by who has the turn (`take_turn`), in a transaction that began before: then no delivery can appear that this
-- snapshot does not see, but from an unrouted event, whose row is locked for that, and not waited for.
-- The tables of deliveries and runs are keyed by trigger first; OFFSET 0 makes the planner look each trigger up instead
-- of joining the whole of a table. A row that is named by its ctid is never updated.
-- Where to end is asked after the LIMIT, and once before: between two bounds the planner may sort the whole span.
-- %(dry_run)s only counts.
WITH span AS MATERIALIZED (
    SELECT position, event_ids
    FROM (
        SELECT position, event_ids,
               sum(cardinality(event_ids)) OVER (ORDER BY position) - cardinality(event_ids) AS events_before
        FROM reflex.log
        WHERE position > %(after)s::bigint
          AND (
              SELECT position FROM reflex.log WHERE position > %(after)s::bigint ORDER BY position LIMIT 1
          ) <= %(position)s::bigint
        ORDER BY position
        LIMIT %(limit)s::bigint
    ) AS ahead
    WHERE events_before < %(limit)s AND position <= %(position)s
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
    SELECT unsettled.event_id
    FROM reflex.trigger
    CROSS JOIN LATERAL (
        SELECT event_id
        FROM reflex.delivery
        WHERE delivery.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM found))
        UNION ALL
        SELECT event_id
        FROM reflex.scheduled
        WHERE scheduled.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM found))
        UNION ALL
        SELECT event_id
        FROM reflex.lease
        WHERE lease.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM found))
        UNION ALL
        SELECT event_id
        FROM reflex.dead_letter
        WHERE dead_letter.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM found))
        OFFSET 0
    ) AS unsettled
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
    FROM found
    WHERE event_id NOT IN (SELECT event_id FROM needed)
      AND (%(dry_run)s OR event_id NOT IN (SELECT event_id FROM waiting) OR event_id IN (SELECT event_id FROM locked))
),
spent AS MATERIALIZED (
    SELECT of_trigger.ctid
    FROM reflex.trigger
    CROSS JOIN LATERAL (
        SELECT ctid
        FROM reflex.run
        WHERE run.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM victim))
        OFFSET 0
    ) AS of_trigger
),
without_runs AS (
    DELETE FROM reflex.run
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM spent)) AND NOT %(dry_run)s
),
without_steps AS (
    DELETE FROM reflex.step
    WHERE ctid = ANY(ARRAY(
        SELECT of_trigger.ctid
        FROM reflex.trigger
        CROSS JOIN LATERAL (
            SELECT ctid
            FROM reflex.step
            WHERE step.trigger_id = trigger.trigger_id AND event_id = ANY(ARRAY(SELECT event_id FROM victim))
            OFFSET 0
        ) AS of_trigger
    )) AND NOT %(dry_run)s
),
without_keys AS (
    DELETE FROM reflex.idempotency
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM victim)) AND NOT %(dry_run)s
),
without_waiting AS (
    DELETE FROM reflex.unrouted
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM locked WHERE event_id IN (SELECT event_id FROM victim)))
),
without_events AS (
    DELETE FROM reflex.event
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM victim)) AND NOT %(dry_run)s
),
without_appends AS (
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
       (SELECT count(*) FROM victim) AS events,
       (SELECT count(*) FROM found) - (SELECT count(*) FROM victim) AS needed,
       (SELECT count(*) FROM spent) AS runs

-- New deliveries of one trigger for the events of the next appends after a cursor, up to another one, in the order of the
-- log: for those that pass the filter and that a route of the trigger matches. A filter that is NULL does not count.
-- A delivery that is open or dead is left alone; so is an event that is unrouted, for it will be delivered anyhow.
-- Called by who has the turn (`take_turn`), in a transaction that began before: a delivery that is not in this snapshot
-- can then only appear where this statement makes one, and no event that it sees is removed.
-- lease_epoch goes on counting, so that the runs of before stay distinct; what they journaled is forgotten.
-- In a lane they come last, as in an append: positions are drawn under the lanes' locks, which are taken in their order.
-- OFFSET 0 keeps the planner from hashing the whole of a table for an EXISTS.
-- The lateral LIMIT keeps the planner from joining the whole of reflex.event because it overrates what an array holds.
WITH span AS (
    SELECT position, event_ids
    FROM (
        SELECT position, event_ids,
               sum(cardinality(event_ids)) OVER (ORDER BY position) - cardinality(event_ids) AS events_before
        FROM reflex.log
        WHERE position >= %(position)s::bigint
        ORDER BY position
        LIMIT %(limit)s::bigint + 1
    ) AS ahead
    WHERE events_before < %(limit)s::bigint + %(place)s::int AND position <= %(end_position)s::bigint
),
member AS (
    SELECT position, place, event_id
    FROM span
    CROSS JOIN LATERAL unnest(event_ids) WITH ORDINALITY AS member (event_id, place)
    WHERE (position, place) > (%(position)s, %(place)s)
      AND (position, place) <= (%(end_position)s, %(end_place)s::int)
),
matched AS (
    SELECT position, place, event.event_id, available_at, lane_key,
           EXISTS (
               SELECT
               FROM (
                   SELECT trigger_id, event_id FROM reflex.delivery
                   UNION ALL SELECT trigger_id, event_id FROM reflex.scheduled
                   UNION ALL SELECT trigger_id, event_id FROM reflex.ordered
                   UNION ALL SELECT trigger_id, event_id FROM reflex.lease
                   UNION ALL SELECT trigger_id, event_id FROM reflex.dead_letter
               ) AS busy
               WHERE trigger_id = %(trigger)s AND event_id = event.event_id
               OFFSET 0
           ) OR EXISTS (
               SELECT FROM reflex.unrouted
               WHERE type = event.type AND event_id = event.event_id
               OFFSET 0
           ) AS is_busy,
           (
               SELECT coalesce(max(lease_epoch), 0)
               FROM reflex.run
               WHERE trigger_id = %(trigger)s AND event_id = event.event_id
           ) AS lease_epoch
    FROM member
    CROSS JOIN LATERAL (
        SELECT event_id, type, source, key, available_at,
               CASE WHEN key_path IS NOT NULL THEN reflex.lane_key(key_path, key, source, payload::text)
               END COLLATE "C" AS lane_key
        FROM reflex.event
        JOIN reflex.route ON trigger_id = %(trigger)s AND type BETWEEN low AND high
            AND (pattern <> '*' OR NOT starts_with(type, 'reflex.'))
        WHERE event_id = member.event_id
        LIMIT 1
    ) AS event
    WHERE (%(type_low)s::text[] IS NULL OR EXISTS (
              SELECT FROM unnest(%(type_low)s::text[], %(type_high)s::text[]) AS wanted (low, high)
              WHERE event.type BETWEEN low AND high
          ))
      AND (%(sources)s::text[] IS NULL OR event.source = ANY(%(sources)s))
      AND (%(key)s::text IS NULL OR event.key = %(key)s)
),
again AS (
    SELECT position, place, event_id, lane_key, lease_epoch,
           CASE WHEN available_at > now() THEN available_at END AS due_at
    FROM matched
    WHERE NOT is_busy AND NOT %(dry_run)s::boolean
),
forgotten AS (
    DELETE FROM reflex.step
    USING again
    WHERE step.trigger_id = %(trigger)s AND step.event_id = again.event_id
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, lease_epoch)
    SELECT %(trigger)s::int, event_id, lease_epoch
    FROM again
    WHERE lane_key IS NULL AND due_at IS NULL
    RETURNING trigger_id
),
later AS (
    INSERT INTO reflex.scheduled (trigger_id, event_id, lease_epoch, available_at, lane_key)
    SELECT %(trigger)s::int, event_id, lease_epoch, due_at, lane_key
    FROM again
    WHERE due_at IS NOT NULL
),
laned AS (
    INSERT INTO reflex.lane (trigger_id, key, pending, head)
    SELECT %(trigger)s::int, lane_key, count(*), nextval('reflex.lane_position')
    FROM again
    WHERE lane_key IS NOT NULL AND due_at IS NULL
    GROUP BY lane_key
    ORDER BY lane_key
    ON CONFLICT (trigger_id, key) DO UPDATE
    SET pending = lane.pending + excluded.pending,
        head    = CASE WHEN lane.pending = 0 THEN excluded.head ELSE lane.head END
    RETURNING key, ready
),
queued AS (
    INSERT INTO reflex.ordered (trigger_id, key, event_id, lease_epoch, position)
    SELECT %(trigger)s, key, event_id, lease_epoch, nextval('reflex.lane_position')
    FROM (
        SELECT key, event_id, lease_epoch
        FROM laned
        JOIN again ON lane_key = key
        WHERE due_at IS NULL
        ORDER BY position, place
    ) AS in_order
)
SELECT log_start.*, last.position, last.place,
       (SELECT count(*) FROM member) AS looked_at, found.replayed, found.left_alone,
       (
           SELECT pg_notify('reflex', '')
           FROM (SELECT FROM pending UNION ALL SELECT FROM laned WHERE ready LIMIT 1) AS woken
       )::text AS notified
FROM reflex.log_start
CROSS JOIN (
    SELECT count(*) FILTER (WHERE NOT is_busy) AS replayed, count(*) FILTER (WHERE is_busy) AS left_alone FROM matched
) AS found
LEFT JOIN (SELECT position, cardinality(event_ids) AS place FROM span ORDER BY position DESC LIMIT 1) AS last ON true

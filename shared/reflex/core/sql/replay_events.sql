-- New deliveries of one trigger for the events of the next appends after a cursor, up to another one, in the order of the
-- log: for those that pass the filter and that a route of the trigger matches. A filter that is NULL does not count.
-- A delivery that is open or dead is left alone; so is an event that is unrouted, for it will be delivered anyhow.
-- Called by who has the turn (`take_turn`), in a transaction that began before: a delivery that is not in this snapshot
-- can then only appear where this statement makes one, and no event that it sees is removed.
-- lease_epoch goes on counting, so that the runs of before stay distinct; what they journaled is forgotten.
-- In a lane they come last, as in an append: positions are drawn under the lanes' locks, which are taken in their order.
-- OFFSET 0 keeps the planner from hashing the whole of a table for an EXISTS.
-- The lateral LIMIT keeps the planner from joining the whole of reflex.event because it overrates what an array holds.
WITH span AS MATERIALIZED (
    SELECT position, event_ids
    FROM (
        SELECT position, event_ids,
               sum(cardinality(event_ids)) OVER (ORDER BY position) - cardinality(event_ids) AS events_before
        FROM reflex.log
        WHERE position >= %(position)s::bigint
        ORDER BY position
        LIMIT %(limit)s::bigint + 1
    ) AS ahead
    WHERE events_before < %(limit)s::bigint + %(place)s::int AND position <= %(until_position)s::bigint
),
member AS MATERIALIZED (
    SELECT span.position, member.place, member.event_id
    FROM span
    CROSS JOIN LATERAL unnest(span.event_ids) WITH ORDINALITY AS member (event_id, place)
    WHERE (span.position, member.place) > (%(position)s, %(place)s)
      AND (span.position, member.place) <= (%(until_position)s, %(until_place)s::int)
),
mine AS MATERIALIZED (
    SELECT pattern, low, high, key_path
    FROM reflex.route
    WHERE trigger_id = %(trigger_id)s::int
),
matched AS MATERIALIZED (
    SELECT member.position, member.place, event.event_id, event.available_at, event.lane_key,
           EXISTS (
               SELECT
               FROM (
                   SELECT trigger_id, event_id FROM reflex.delivery
                   UNION ALL SELECT trigger_id, event_id FROM reflex.scheduled
                   UNION ALL SELECT trigger_id, event_id FROM reflex.ordered
                   UNION ALL SELECT trigger_id, event_id FROM reflex.lease
                   UNION ALL SELECT trigger_id, event_id FROM reflex.dead_letter
               ) AS unsettled
               WHERE unsettled.trigger_id = %(trigger_id)s AND unsettled.event_id = event.event_id
               OFFSET 0
           ) OR EXISTS (
               SELECT FROM reflex.unrouted
               WHERE unrouted.type = event.type AND unrouted.event_id = event.event_id
               OFFSET 0
           ) AS is_busy,
           coalesce((
               SELECT run.lease_epoch
               FROM reflex.run
               WHERE run.trigger_id = %(trigger_id)s AND run.event_id = event.event_id
               ORDER BY run.lease_epoch DESC
               LIMIT 1
           ), 0) AS lease_epoch
    FROM member
    CROSS JOIN LATERAL (
        SELECT event.event_id, event.type, event.source, event.key, event.available_at,
               CASE WHEN mine.key_path IS NOT NULL
                    THEN reflex.lane_key(mine.key_path, event.key, event.source, event.payload::text)
               END COLLATE "C" AS lane_key
        FROM reflex.event
        JOIN mine ON event.type >= mine.low AND event.type <= mine.high
            AND (mine.pattern <> '*' OR NOT starts_with(event.type, 'reflex.'))
        WHERE event.event_id = member.event_id
        LIMIT 1
    ) AS event
    WHERE (%(type_low)s::text[] IS NULL OR EXISTS (
              SELECT FROM unnest(%(type_low)s::text[], %(type_high)s::text[]) AS wanted (low, high)
              WHERE event.type >= wanted.low AND event.type <= wanted.high
          ))
      AND (%(sources)s::text[] IS NULL OR event.source = ANY(%(sources)s::text[]))
      AND (%(key)s::text IS NULL OR event.key = %(key)s)
),
again AS MATERIALIZED (
    SELECT position, place, event_id, lane_key, lease_epoch,
           CASE WHEN available_at > now() THEN available_at END AS available_at
    FROM matched
    WHERE NOT is_busy AND NOT %(dry_run)s::boolean
),
forgotten AS (
    DELETE FROM reflex.step
    USING again
    WHERE step.trigger_id = %(trigger_id)s AND step.event_id = again.event_id
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, lease_epoch)
    SELECT %(trigger_id)s, event_id, lease_epoch
    FROM again
    WHERE lane_key IS NULL AND available_at IS NULL
    RETURNING trigger_id
),
later AS (
    INSERT INTO reflex.scheduled (trigger_id, event_id, lease_epoch, available_at, lane_key)
    SELECT %(trigger_id)s, event_id, lease_epoch, available_at, lane_key
    FROM again
    WHERE available_at IS NOT NULL
),
laned AS (
    INSERT INTO reflex.lane (trigger_id, key, pending, head)
    SELECT %(trigger_id)s, lane_key, count(*), nextval('reflex.lane_position')
    FROM again
    WHERE lane_key IS NOT NULL AND available_at IS NULL
    GROUP BY lane_key
    ORDER BY lane_key
    ON CONFLICT (trigger_id, key) DO UPDATE
    SET pending = lane.pending + excluded.pending,
        head    = CASE WHEN lane.pending = 0 THEN excluded.head ELSE lane.head END
    RETURNING key, ready
),
queued AS (
    INSERT INTO reflex.ordered (trigger_id, key, event_id, lease_epoch, position)
    SELECT %(trigger_id)s, key, event_id, lease_epoch, nextval('reflex.lane_position')
    FROM (
        SELECT laned.key, again.event_id, again.lease_epoch
        FROM laned
        JOIN again ON again.lane_key = laned.key
        WHERE again.available_at IS NULL
        ORDER BY again.position, again.place
    ) AS in_order
)
SELECT log_start.position AS start_position, log_start.place AS start_place, last.position, last.place,
       (SELECT count(*) FROM member) AS looked_at,
       (SELECT count(*) FROM matched WHERE NOT is_busy) AS replayed,
       (SELECT count(*) FROM matched WHERE is_busy) AS left_alone,
       (
           SELECT pg_notify('reflex', '')
           FROM (SELECT FROM pending UNION ALL SELECT FROM laned WHERE ready LIMIT 1) AS any_pending
       )::text AS notified
FROM reflex.log_start
LEFT JOIN (
    SELECT position, cardinality(event_ids) AS place
    FROM span
    ORDER BY position DESC
    LIMIT 1
) AS last ON true

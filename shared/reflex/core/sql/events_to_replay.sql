-- Which events of the next appends after a cursor, up to another one, a trigger may get again: those that pass the filter
-- and that a route of the trigger matches. A filter that is NULL does not count. One of which the delivery is open or dead
-- is only counted, and so is one that is unrouted, for it will be delivered anyhow.
-- It ends where the appends end, or before the event of which one delivery more than %(most)s would be made.
-- lease_epoch goes on counting, so that the runs of before stay distinct; where there were none it begins with 1, so that
-- each run of a replay has a higher one than its attempt, which is how a worker knows that it may be one.
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
               SELECT greatest(max(lease_epoch), 1)
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
counted AS (
    SELECT *, count(*) FILTER (WHERE NOT is_busy) OVER (ORDER BY position, place) > %(most)s::int AS is_over
    FROM matched
),
beyond AS (
    SELECT position, place
    FROM counted
    WHERE is_over
    ORDER BY position, place
    LIMIT 1
)
SELECT log_start.*, last.position, last.place, beyond.position, beyond.place,
       (
           SELECT count(*)
           FROM member
           WHERE ((position, place) >= (beyond.position, beyond.place)) IS NOT TRUE
       ) AS looked_at,
       found.*
FROM reflex.log_start
CROSS JOIN (
    SELECT count(*) FILTER (WHERE is_busy) AS left_alone,
           array_agg(event_id ORDER BY position, place) FILTER (WHERE NOT is_busy) AS event_id,
           array_agg(lease_epoch ORDER BY position, place) FILTER (WHERE NOT is_busy) AS lease_epoch,
           array_agg(lane_key ORDER BY position, place) FILTER (WHERE NOT is_busy) AS lane_key,
           array_agg(available_at ORDER BY position, place) FILTER (WHERE NOT is_busy) AS available_at
    FROM counted
    WHERE NOT is_over
) AS found
LEFT JOIN (SELECT position, cardinality(event_ids) AS place FROM span ORDER BY position DESC LIMIT 1) AS last ON true
LEFT JOIN beyond ON true

-- The deliveries of a trigger that have not ended and whose events have this key and were accepted before a moment, or at
-- that moment under a lower id. What is to be cancelled already is not among them. What runs comes last: its slot, or its
-- lane, would go on with what is to end as well.
-- One statement, so one snapshot: a delivery that moves meanwhile is seen in one of its places.
-- Run unprepared: the planner makes of lane_key(…) what the path says, and for an event's own key there is an index. Any
-- other key is where the trigger's deliveries are: in `ordered` by the index of its lanes, elsewhere by asking each one
-- for its event.
-- `wanted` is inlined into each of the joins, which begin where there is less, at the events or at the deliveries; a join
-- with the union of the four places would always begin at all of these.
WITH wanted AS NOT MATERIALIZED (
    SELECT event_id
    FROM reflex.event
    WHERE reflex.lane_key(string_to_array(%(key_path)s, '.'), key, source, payload::text) = %(key)s::text
      AND (created_at, event_id) < (%(accepted_at)s::timestamptz, %(before)s::uuid)
)
SELECT open.event_id, open.runs
FROM (
    SELECT event_id, false AS runs
    FROM reflex.delivery
    JOIN wanted USING (event_id)
    WHERE trigger_id = %(trigger_id)s
    UNION ALL
    SELECT event_id, false
    FROM reflex.scheduled
    JOIN wanted USING (event_id)
    WHERE trigger_id = %(trigger_id)s AND (lane_key IS NULL OR lane_key = %(key)s::text)
    UNION ALL
    SELECT event_id, false
    FROM reflex.ordered
    JOIN wanted USING (event_id)
    WHERE trigger_id = %(trigger_id)s AND key = %(key)s::text
    UNION ALL
    SELECT event_id, true
    FROM reflex.lease
    JOIN wanted USING (event_id)
    WHERE trigger_id = %(trigger_id)s AND (lane_key IS NULL OR lane_key = %(key)s::text)
) AS open
WHERE NOT EXISTS (
    SELECT FROM reflex.cancellation
    WHERE cancellation.trigger_id = %(trigger_id)s AND cancellation.event_id = open.event_id
)
ORDER BY open.runs, open.event_id
LIMIT %(limit)s

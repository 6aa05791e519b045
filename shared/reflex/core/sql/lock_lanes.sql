-- Lock the lanes of deliveries that are about to be settled together with those of the events that their runs publish.
-- Settling locks some, appending others: two workers that do so the other way round would wait for each other. All of
-- them are locked here first, in the order in which everybody locks lanes; a lane that is not there yet is made, empty.
-- Does nothing if no published event has a lane. Who dies or freezes between this and the commit is cut off by the
-- server: appends to these lanes wait.
WITH matched AS (
    SELECT DISTINCT candidate.type, route.trigger_id, route.key_path
    FROM unnest(%(route_type)s::text[], %(route_pattern)s::text[]) AS candidate (type, pattern)
    JOIN reflex.route ON route.pattern = candidate.pattern
    WHERE route.key_path IS NOT NULL
),
published AS (
    SELECT trigger_id, lane_key AS key
    FROM (
        SELECT matched.trigger_id, reflex.lane_key(matched.key_path, new.key, new.source, new.payload) AS lane_key
        FROM matched
        JOIN unnest(%(type)s::text[], %(key)s::text[], %(source)s::text[], %(payload)s::text[])
             AS new (type, key, source, payload) USING (type)
    ) AS keyed
    WHERE lane_key IS NOT NULL
),
wanted AS (
    SELECT trigger_id, key
    FROM published
    UNION
    SELECT trigger_id, lane_key
    FROM unnest(%(trigger_id)s::int[], %(lane_key)s::text[]) AS settled (trigger_id, lane_key)
    WHERE EXISTS (SELECT FROM published)
),
locked AS (
    INSERT INTO reflex.lane (trigger_id, key, head)
    SELECT trigger_id, key, 0
    FROM wanted
    ORDER BY trigger_id, key COLLATE "C"
    ON CONFLICT (trigger_id, key) DO UPDATE SET pending = lane.pending
    RETURNING trigger_id
)
SELECT count(*), set_config('idle_in_transaction_session_timeout', %(standstill)s, true) FROM locked

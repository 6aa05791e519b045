-- Let go of the keys that dead letters of these triggers hold: their code says by now that a key goes on.
-- Dead letters before lanes, each in the order of its key, as a retry locks them.
WITH lifted AS (
    UPDATE reflex.dead_letter
    SET holds = false
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM reflex.dead_letter
        WHERE trigger_id = ANY(%(trigger_ids)s::int[])
          AND holds
          AND EXISTS (SELECT FROM reflex.lane WHERE trigger_id = ANY(%(trigger_ids)s::int[]) AND held > 0)
        ORDER BY trigger_id, event_id
        FOR UPDATE
    ))
    RETURNING trigger_id, lane_key
),
lift AS (
    SELECT trigger_id, lane_key AS key, count(*) AS held
    FROM lifted
    GROUP BY trigger_id, lane_key
),
locked AS (
    SELECT lane.trigger_id, lane.key, lift.held
    FROM lift
    JOIN reflex.lane USING (trigger_id, key)
    ORDER BY lane.trigger_id, lane.key
    FOR UPDATE OF lane
)
UPDATE reflex.lane
SET held = lane.held - locked.held
FROM locked
WHERE lane.trigger_id = locked.trigger_id AND lane.key = locked.key

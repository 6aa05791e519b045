-- Give up on dead letters for good. Each leaves a cancelled run behind, with nobody as its worker, so that its event
-- still says what became of the delivery; its journal is deleted, but for what nobody knows whether it was done, and the
-- lane that it held goes on. Locked in the order of their keys, as a retry does.
WITH purged AS (
    DELETE FROM reflex.dead_letter
    WHERE ctid = ANY(ARRAY(
        SELECT dead_letter.ctid
        FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS asked (trigger_id, event_id)
        JOIN reflex.dead_letter USING (trigger_id, event_id)
        ORDER BY dead_letter.trigger_id, dead_letter.event_id
        FOR UPDATE OF dead_letter
    ))
    RETURNING trigger_id, event_id, attempt, lease_epoch, reason, lane_key, holds
),
lift AS (
    SELECT lane.trigger_id, lane.key, held.count
    FROM (
        SELECT trigger_id, lane_key AS key, count(*)
        FROM purged
        WHERE holds
        GROUP BY trigger_id, lane_key
    ) AS held
    JOIN reflex.lane USING (trigger_id, key)
    ORDER BY lane.trigger_id, lane.key
    FOR UPDATE OF lane
),
lifted AS (
    UPDATE reflex.lane
    SET held = lane.held - lift.count
    FROM lift
    WHERE lane.trigger_id = lift.trigger_id AND lane.key = lift.key
    RETURNING ready
),
forgotten AS (
    DELETE FROM reflex.step
    USING purged
    WHERE step.trigger_id = purged.trigger_id AND step.event_id = purged.event_id AND step.kind <> 'intent'
),
recorded AS (
    INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, error)
    SELECT trigger_id, event_id, lease_epoch + 1, attempt, '00000000-0000-0000-0000-000000000000', now(), 'cancelled',
           coalesce(%(because)s, 'purged by a person') || '; it was a dead letter (' || reason || ')'
    FROM purged
    RETURNING trigger_id, event_id
)
SELECT trigger_id, event_id,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM lifted WHERE ready LIMIT 1) AS any_ready)::text AS notified
FROM recorded

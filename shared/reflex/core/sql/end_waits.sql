-- Make deliveries due that wait: what they wait for may have happened. One that does not wait (any more) is left alone.
-- Lanes are locked in the order of trigger and key, as everywhere.
WITH asked AS (
    SELECT waiting.trigger_id, waiting.event_id, waiting.lane_key
    FROM reflex.waiting
    JOIN unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS t (trigger_id, event_id) USING (trigger_id, event_id)
),
locked AS MATERIALIZED (
    SELECT lane.trigger_id, lane.key, lane.head
    FROM asked
    JOIN reflex.lane ON lane.trigger_id = asked.trigger_id AND lane.key = asked.lane_key
    ORDER BY lane.trigger_id, lane.key
    FOR UPDATE OF lane
),
ready AS (
    UPDATE reflex.lane
    SET available_at = NULL
    FROM locked
    JOIN reflex.ordered ON ordered.trigger_id = locked.trigger_id AND ordered.key = locked.key
                       AND ordered.position = locked.head
    JOIN asked ON asked.trigger_id = ordered.trigger_id AND asked.event_id = ordered.event_id
    WHERE lane.trigger_id = locked.trigger_id AND lane.key = locked.key
    RETURNING asked.trigger_id, asked.event_id
),
taken AS (
    DELETE FROM reflex.scheduled
    USING asked
    WHERE scheduled.trigger_id = asked.trigger_id AND scheduled.event_id = asked.event_id AND asked.lane_key IS NULL
    RETURNING scheduled.trigger_id, scheduled.event_id, scheduled.attempt, scheduled.lease_epoch
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, attempt, lease_epoch)
    SELECT trigger_id, event_id, attempt, lease_epoch
    FROM taken
),
due AS (
    SELECT trigger_id, event_id FROM ready
    UNION ALL
    SELECT trigger_id, event_id FROM taken
),
ended AS (
    DELETE FROM reflex.waiting
    USING due
    WHERE waiting.trigger_id = due.trigger_id AND waiting.event_id = due.event_id
)
SELECT trigger_id, event_id,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM due LIMIT 1) AS any_due)::text AS notified
FROM due

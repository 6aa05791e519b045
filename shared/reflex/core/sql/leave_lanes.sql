-- Deliveries that are pending in lanes of triggers which are ordered no more go on like all others. A standing loop
-- runs this, for what is under way while a trigger changes comes to its lane later. Claimed lanes come when they are
-- free. As in claim_lanes, a lane that changed since the snapshot is dropped; the next call finds it.
WITH seen AS MATERIALIZED (
    SELECT trigger_id, key
    FROM reflex.lane
    WHERE ctid = ANY(ARRAY(
        SELECT filled.ctid
        FROM reflex.trigger
        CROSS JOIN LATERAL (
            SELECT lane.ctid
            FROM reflex.lane
            WHERE lane.trigger_id = trigger.trigger_id AND lane.pending > 0
            LIMIT 100
            FOR UPDATE SKIP LOCKED
        ) AS filled
        WHERE trigger.key_path IS NULL
    ))
),
left_behind AS (
    DELETE FROM reflex.ordered
    WHERE ctid = ANY(ARRAY(
        SELECT first.ctid
        FROM seen
        CROSS JOIN LATERAL (
            SELECT ordered.ctid
            FROM reflex.ordered
            WHERE ordered.trigger_id = seen.trigger_id AND ordered.key = seen.key
            ORDER BY ordered.position, ordered.event_id
            LIMIT %(limit)s
        ) AS first
        LIMIT %(limit)s
    ))
    RETURNING trigger_id, key, event_id, attempt, lease_epoch
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, attempt, lease_epoch)
    SELECT trigger_id, event_id, attempt, lease_epoch
    FROM left_behind
),
emptied AS (
    UPDATE reflex.lane
    SET pending = lane.pending - moved.count
    FROM (SELECT trigger_id, key, count(*) FROM left_behind GROUP BY trigger_id, key) AS moved
    WHERE lane.trigger_id = moved.trigger_id AND lane.key = moved.key
)
SELECT count(*) AS moved,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM left_behind LIMIT 1) AS any_moved)::text AS notified
FROM left_behind

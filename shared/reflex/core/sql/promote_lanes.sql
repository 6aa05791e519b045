-- Make lanes ready whose wait is over. Returns how many, and how long until the next: at least a moment, for a lane
-- that is locked or has just changed is left for the next call.
WITH due AS (
    UPDATE reflex.lane
    SET available_at = NULL
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM reflex.lane
        WHERE available_at <= coalesce(%(now)s::timestamptz, now())
        ORDER BY available_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING trigger_id, key, ready
),
over AS (
    DELETE FROM reflex.waiting
    USING due
    WHERE waiting.trigger_id = due.trigger_id AND waiting.lane_key = due.key
)
SELECT (SELECT count(*) FROM due) AS promoted,
       (
           SELECT greatest(lane.available_at - coalesce(%(now)s::timestamptz, now()), interval '50 milliseconds')
           FROM reflex.lane
           WHERE available_at IS NOT NULL
             AND NOT EXISTS (SELECT FROM due WHERE due.trigger_id = lane.trigger_id AND due.key = lane.key)
           ORDER BY available_at
           LIMIT 1
       ) AS next_in,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM due WHERE ready LIMIT 1) AS any_ready)::text AS notified

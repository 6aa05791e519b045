-- Move scheduled deliveries that are due to the pending ones. Returns how many, and how long until the next is due,
-- so that the loop that calls this sleeps just long enough.
-- The ctids are taken into an array first: the planner cannot turn that into a scan of the whole table.
WITH due AS (
    DELETE FROM reflex.scheduled
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM reflex.scheduled
        WHERE available_at <= coalesce(%(now)s::timestamptz, now())
        ORDER BY available_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING trigger_id, event_id, attempt, lease_epoch
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, attempt, lease_epoch)
    SELECT trigger_id, event_id, attempt, lease_epoch
    FROM due
    RETURNING trigger_id
)
SELECT count(*) AS promoted,
       (SELECT min(available_at) FROM reflex.scheduled
        WHERE available_at > coalesce(%(now)s::timestamptz, now())) - coalesce(%(now)s::timestamptz, now()) AS next_in,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM pending LIMIT 1) AS any_pending)::text AS notified
FROM pending

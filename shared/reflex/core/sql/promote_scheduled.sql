-- Move scheduled deliveries that are due to the pending ones. Returns how many, and how long until the next is due,
-- so that the loop that calls this sleeps just long enough.
-- An event of an ordered trigger gets its place in its lane now: what was put off comes after what was not.
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
    RETURNING trigger_id, event_id, attempt, lease_epoch, available_at, lane_key
),
over AS (
    DELETE FROM reflex.waiting
    USING due
    WHERE waiting.trigger_id = due.trigger_id AND waiting.event_id = due.event_id
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, attempt, lease_epoch)
    SELECT trigger_id, event_id, attempt, lease_epoch
    FROM due
    WHERE lane_key IS NULL
    RETURNING trigger_id
),
laned AS (
    INSERT INTO reflex.lane (trigger_id, key, pending, head)
    SELECT trigger_id, lane_key, count(*), nextval('reflex.lane_position')
    FROM due
    WHERE lane_key IS NOT NULL
    GROUP BY trigger_id, lane_key
    ORDER BY trigger_id, lane_key
    ON CONFLICT (trigger_id, key) DO UPDATE
    SET pending = lane.pending + excluded.pending,
        head    = CASE WHEN lane.pending = 0 THEN excluded.head ELSE lane.head END
    RETURNING trigger_id, key, ready
),
queued AS (
    INSERT INTO reflex.ordered (trigger_id, key, event_id, attempt, lease_epoch, position)
    SELECT trigger_id, key, event_id, attempt, lease_epoch, nextval('reflex.lane_position')
    FROM (
        SELECT laned.trigger_id, laned.key, due.event_id, due.attempt, due.lease_epoch
        FROM laned
        JOIN due ON due.trigger_id = laned.trigger_id AND due.lane_key = laned.key
        ORDER BY due.available_at, due.event_id
    ) AS in_order
)
SELECT (SELECT count(*) FROM due) AS promoted,
       (SELECT min(available_at) FROM reflex.scheduled
        WHERE available_at > coalesce(%(now)s::timestamptz, now())) - coalesce(%(now)s::timestamptz, now()) AS next_in,
       (
           SELECT pg_notify('reflex', '')
           FROM (SELECT FROM pending UNION ALL SELECT FROM laned WHERE ready LIMIT 1) AS any_pending
       )::text AS notified

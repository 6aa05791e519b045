-- Hand unrouted events to triggers that match them by now. A standing loop runs this: an event that was
-- appended while its trigger was being registered is found the next time round. '*' does not mean system types.
-- In a lane they come before all that was appended since, and among themselves in the order of their ids, whichever
-- portion they are in: their positions are the milliseconds of their ids, counted from below zero.
WITH found AS (
    SELECT unrouted.type, unrouted.event_id, route.trigger_id
    FROM reflex.route
    CROSS JOIN LATERAL (
        SELECT type, event_id
        FROM reflex.unrouted
        WHERE type >= route.low AND type <= route.high
          AND (route.pattern <> '*' OR NOT starts_with(type, 'reflex.'))
        ORDER BY type, event_id
        LIMIT %(limit)s
    ) AS unrouted
),
routed AS (
    DELETE FROM reflex.unrouted
    WHERE (type, event_id) IN (
        SELECT type, event_id
        FROM reflex.unrouted
        WHERE (type, event_id) IN (SELECT type, event_id FROM found)
        FOR UPDATE SKIP LOCKED
    )
    RETURNING type, event_id
),
target AS (
    SELECT DISTINCT routed.event_id, route.trigger_id, route.key_path
    FROM routed
    JOIN reflex.route ON routed.type >= route.low AND routed.type <= route.high
        AND (route.pattern <> '*' OR NOT starts_with(routed.type, 'reflex.'))
),
keyed AS (
    SELECT target.trigger_id, target.event_id, event.available_at,
           CASE WHEN target.key_path IS NOT NULL
                THEN reflex.lane_key(target.key_path, event.key, event.source, event.payload::text)
           END COLLATE "C" AS key
    FROM target
    JOIN reflex.event USING (event_id)
),
later AS (
    INSERT INTO reflex.scheduled (trigger_id, event_id, available_at, lane_key)
    SELECT trigger_id, event_id, available_at, key
    FROM keyed
    WHERE available_at > now()
),
waiting AS (
    SELECT trigger_id, event_id, key,
           ('x' || left(replace(event_id::text, '-', ''), 12))::bit(48)::bigint - (1::bigint << 48) AS position
    FROM keyed
    WHERE available_at IS NULL OR available_at <= now()
),
laned AS (
    INSERT INTO reflex.lane (trigger_id, key, pending, head)
    SELECT trigger_id, key, count(*), min(position)
    FROM waiting
    WHERE key IS NOT NULL
    GROUP BY trigger_id, key
    ORDER BY trigger_id, key
    ON CONFLICT (trigger_id, key) DO UPDATE
    SET pending = lane.pending + excluded.pending,
        head    = CASE WHEN lane.pending = 0 THEN excluded.head ELSE least(lane.head, excluded.head) END
    RETURNING trigger_id, key, ready
),
queued AS (
    INSERT INTO reflex.ordered (trigger_id, key, event_id, position)
    SELECT trigger_id, key, event_id, position
    FROM laned
    JOIN waiting USING (trigger_id, key)
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id)
    SELECT trigger_id, event_id
    FROM waiting
    WHERE key IS NULL
    RETURNING trigger_id
)
SELECT (SELECT count(*) FROM routed) AS routed,
       (
           SELECT pg_notify('reflex', '')
           FROM (SELECT FROM pending UNION ALL SELECT FROM laned WHERE ready LIMIT 1) AS any_pending
       )::text AS notified

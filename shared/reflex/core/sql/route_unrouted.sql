-- Hand unrouted events to triggers that match them by now. A standing loop runs this: an event that was
-- appended while its trigger was being registered is found the next time round. '*' does not mean system types.
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
    SELECT DISTINCT routed.event_id, route.trigger_id
    FROM routed
    JOIN reflex.route ON routed.type >= route.low AND routed.type <= route.high
        AND (route.pattern <> '*' OR NOT starts_with(routed.type, 'reflex.'))
),
later AS (
    INSERT INTO reflex.scheduled (trigger_id, event_id, available_at)
    SELECT target.trigger_id, target.event_id, event.available_at
    FROM target
    JOIN reflex.event USING (event_id)
    WHERE event.available_at > now()
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id)
    SELECT target.trigger_id, target.event_id
    FROM target
    JOIN reflex.event USING (event_id)
    WHERE event.available_at IS NULL OR event.available_at <= now()
    RETURNING trigger_id
)
SELECT (SELECT count(*) FROM routed) AS routed,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM pending LIMIT 1) AS any_pending)::text AS notified

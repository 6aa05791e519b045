-- Every trace of an event's deliveries: the row that says where each one is now, and its latest runs.
-- One statement, so one snapshot: a delivery that moves meanwhile is seen once, in one place.
-- Of what a replay made, every run but those of before has a higher lease_epoch than its mark.
-- All these tables are keyed by trigger first; the lateral joins look each trigger up instead of scanning.
SELECT trigger.trigger_id, trigger.name AS trigger, app.name AS app, trace.*, replayed.replayed_at,
       trace.lease_epoch > replayed.lease_epoch IS TRUE AS is_replay
FROM reflex.trigger
JOIN reflex.app USING (app_id)
CROSS JOIN LATERAL (
    SELECT 'pending' AS place, attempt, lease_epoch, NULL::uuid AS worker_id, NULL::text AS host, NULL::int AS pid,
           NULL::timestamptz AS available_at, NULL::timestamptz AS started_at, NULL::timestamptz AS finished_at,
           NULL::text AS outcome, NULL::text AS reason, NULL::text AS error, NULL::text AS output,
           NULL::text AS usage, NULL::text AS trace_id
    FROM reflex.delivery
    WHERE delivery.trigger_id = trigger.trigger_id AND delivery.event_id = %(event_id)s
    UNION ALL
    SELECT CASE WHEN kind IS NULL THEN 'pending' ELSE 'waiting' END, attempt, lease_epoch, NULL, NULL, NULL,
           available_at, NULL, NULL, NULL, kind, reason, NULL, NULL, NULL
    FROM reflex.scheduled
    LEFT JOIN reflex.waiting USING (trigger_id, event_id)
    WHERE scheduled.trigger_id = trigger.trigger_id AND scheduled.event_id = %(event_id)s
    UNION ALL
    SELECT CASE WHEN kind IS NULL THEN 'pending' ELSE 'waiting' END, ordered.attempt, ordered.lease_epoch, NULL, NULL,
           NULL, CASE WHEN ordered.position = lane.head THEN lane.available_at END, NULL, NULL, NULL, kind, reason,
           NULL, NULL, NULL
    FROM reflex.ordered
    JOIN reflex.lane USING (trigger_id, key)
    LEFT JOIN reflex.waiting USING (trigger_id, event_id)
    WHERE ordered.trigger_id = trigger.trigger_id AND ordered.event_id = %(event_id)s
    UNION ALL
    SELECT 'running', lease.attempt, lease.lease_epoch, lease.worker_id, worker.host, worker.pid, NULL,
           lease.started_at, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM reflex.lease
    LEFT JOIN reflex.worker USING (worker_id)
    WHERE lease.trigger_id = trigger.trigger_id AND lease.event_id = %(event_id)s
    UNION ALL
    SELECT 'dead', attempt, lease_epoch, NULL, NULL, NULL, NULL, NULL, died_at, NULL, reason, error, NULL, NULL,
           NULL
    FROM reflex.dead_letter
    WHERE dead_letter.trigger_id = trigger.trigger_id AND dead_letter.event_id = %(event_id)s
    UNION ALL
    (
        SELECT 'run', attempt, lease_epoch, worker_id, NULL, NULL, NULL, started_at, finished_at, outcome, NULL,
               error, output::text, usage::text, trace_id
        FROM reflex.run
        WHERE run.trigger_id = trigger.trigger_id AND run.event_id = %(event_id)s
        ORDER BY lease_epoch DESC
        LIMIT %(run_limit)s
    )
) AS trace
LEFT JOIN reflex.replayed ON replayed.event_id = %(event_id)s AND replayed.trigger_id = trigger.trigger_id
WHERE %(trigger_id)s::int IS NULL OR trigger.trigger_id = %(trigger_id)s
ORDER BY trigger.trigger_id, trace.lease_epoch

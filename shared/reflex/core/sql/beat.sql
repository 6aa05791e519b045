-- Say that a worker lives. No row back means that it was declared dead: it must stop its runs and start anew.
-- Asks at the same time whether one of its runs was to be cancelled, and has not ended since.
UPDATE reflex.worker
SET heartbeat_at = clock_timestamp()
WHERE worker_id = %(worker_id)s
RETURNING worker_id, EXISTS (
    SELECT
    FROM reflex.cancellation
    JOIN reflex.lease USING (trigger_id, event_id)
    WHERE lease.worker_id = worker.worker_id AND cancellation.asked_at < now() - %(grace)s::interval
) AS is_overdue

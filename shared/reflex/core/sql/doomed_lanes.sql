-- Lanes of which a worker that is gone held a delivery in its last attempt, with that delivery: the first of its
-- lease, for those behind it had not begun. They are reaped one by one, with the event that says what died.
SELECT first.trigger_id, first.event_id, first.attempt, trigger.name AS trigger,
       event.type, event.key, event.correlation_id, event.depth, event.reply_to
FROM (
    SELECT DISTINCT ON (trigger_id, lane_key) trigger_id, lane_key, event_id, attempt
    FROM reflex.lease
    WHERE lane_key IS NOT NULL
      AND NOT EXISTS (SELECT FROM reflex.worker WHERE worker.worker_id = lease.worker_id)
    ORDER BY trigger_id, lane_key, position, event_id
) AS first
JOIN reflex.trigger USING (trigger_id)
JOIN reflex.event USING (event_id)
WHERE first.attempt >= trigger.max_attempts

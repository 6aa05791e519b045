-- Which of a worker's runs somebody wants to end, and why.
SELECT cancellation.trigger_id, cancellation.event_id, cancellation.reason
FROM reflex.cancellation
JOIN reflex.lease USING (trigger_id, event_id)
WHERE lease.worker_id = %(worker_id)s

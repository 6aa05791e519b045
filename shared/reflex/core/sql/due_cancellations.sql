-- Cancellations that no worker will carry out: the delivery is not running any more (it failed and is tried again, or its
-- worker is gone), or its run has not ended within the grace.
SELECT cancellation.trigger_id, cancellation.event_id, cancellation.reason, lease.event_id IS NOT NULL AS overdue
FROM reflex.cancellation
LEFT JOIN reflex.lease USING (trigger_id, event_id)
WHERE lease.event_id IS NULL OR cancellation.asked_at < now() - %(grace)s::interval
ORDER BY cancellation.asked_at
LIMIT %(limit)s

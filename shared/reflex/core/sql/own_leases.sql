-- Every lease of one worker with its event, in the columns of a claim.
SELECT lease.trigger_id, lease.event_id, lease.attempt, lease.lease_epoch,
       event.type, event.source, event.key, event.time, event.payload, event.correlation_id,
       event.causation_id, event.depth, event.trace_context, event.reply_to
FROM reflex.lease
JOIN reflex.event USING (event_id)
WHERE lease.worker_id = %(worker_id)s

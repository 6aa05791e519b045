-- Every lease of one worker with its event, in the columns of a claim; those of one lane in their order.
SELECT lease.trigger_id, lease.event_id, lease.attempt, lease.lease_epoch,
       event.type, event.source, event.key, event.time, event.payload, event.correlation_id,
       event.causation_id, event.depth, event.trace_context, event.reply_to, lease.lane_key, lease.position
FROM reflex.lease
JOIN reflex.event USING (event_id)
WHERE lease.worker_id = %(worker_id)s
ORDER BY lease.trigger_id, lease.lane_key, lease.position, lease.event_id

-- The events of a sealed batch, in the order in which they were accepted.
SELECT event.event_id, event.type, event.source, event.key, event.time, event.payload, event.correlation_id,
       event.causation_id, event.depth, event.trace_context
FROM reflex.gathered
JOIN reflex.event ON event.event_id = gathered.event_id
WHERE gathered.trigger_id = %(trigger_id)s AND gathered.batch_id = %(event_id)s
ORDER BY gathered.accepted_at, gathered.event_id

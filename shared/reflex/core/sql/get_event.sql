-- One event, whole.
SELECT event_id AS id, type, source, key, "time", payload::text AS payload, correlation_id, causation_id, depth,
       trace_context, available_at, created_at,
       EXISTS (
           SELECT FROM reflex.unrouted
           WHERE unrouted.type = event.type AND unrouted.event_id = event.event_id
       ) AS unrouted
FROM reflex.event
WHERE event_id = %(event_id)s

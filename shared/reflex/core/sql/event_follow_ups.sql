-- The events that runs of an event published. They are found by the correlation id that all of a chain share
-- (the first event's own id where the sender gave none): causation_id has no index.
SELECT follow_up.event_id AS id, follow_up.type, follow_up.source, follow_up.created_at
FROM reflex.event AS cause
JOIN reflex.event AS follow_up
  ON follow_up.correlation_id = coalesce(cause.correlation_id, cause.event_id::text)
 AND follow_up.causation_id = cause.event_id
WHERE cause.event_id = %(event_id)s
ORDER BY follow_up.event_id
LIMIT %(limit)s

-- The events of a range of ids, up to %(limit)s.
SELECT event_id
FROM reflex.event
WHERE event_id >= %(low)s AND event_id < %(high)s
LIMIT %(limit)s

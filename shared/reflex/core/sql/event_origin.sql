-- What an event is compared with before a key that is bound to types and sources may see it, or what became of it.
SELECT type, source
FROM reflex.event
WHERE event_id = %(event_id)s

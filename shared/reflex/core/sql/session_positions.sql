-- Where the sessions that come back go on; those that never published are not there.
SELECT session_id, position, place
FROM reflex.session
WHERE session_id = ANY(%(session_id)s::text[])

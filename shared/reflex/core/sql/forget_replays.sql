-- Remove the marks of replays whose events are gone. OFFSET 0 makes the planner look each event up.
DELETE FROM reflex.replayed
WHERE NOT EXISTS (SELECT FROM reflex.event WHERE event.event_id = replayed.event_id OFFSET 0)

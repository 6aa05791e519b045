-- Delete the journals of deliveries that were just settled, in the transaction that settled them: those that
-- succeeded need none any more, and one that led to an answer nobody could use must not be replayed.
DELETE FROM reflex.step
USING unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS settled (trigger_id, event_id)
WHERE step.trigger_id = settled.trigger_id AND step.event_id = settled.event_id

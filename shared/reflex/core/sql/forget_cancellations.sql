-- These deliveries have ended: nobody has to cancel them any more.
DELETE FROM reflex.cancellation
USING unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS ended (trigger_id, event_id)
WHERE cancellation.trigger_id = ended.trigger_id AND cancellation.event_id = ended.event_id

-- Delete the journals of deliveries that were just settled, in the transaction that settled them: those that
-- succeeded need none any more, and one that led to an answer nobody could use must not be replayed.
-- What has been done, and must not be done twice, and what a filter has decided outlive all but the end of their delivery;
-- what nobody knows whether it was done is somebody's to find out, even then.
DELETE FROM reflex.step
USING unnest(%(trigger_id)s::int[], %(event_id)s::uuid[], %(over)s::boolean[]) AS settled (trigger_id, event_id, over)
WHERE step.trigger_id = settled.trigger_id AND step.event_id = settled.event_id
  AND step.kind <> 'intent' AND (settled.over OR step.kind NOT IN ('effect', 'filter'))

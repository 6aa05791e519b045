-- The batches of these subjects that still take events, locked: who hands one over seals it first. `is_open` is whether its
-- delivery has not ended, by a person who cancelled it, say; one without takes nothing more.
-- FOR UPDATE inside keeps the planner from joining the whole of reflex.batch.
SELECT asked.trigger_id, asked.subject, batch.event_id, batch.events,
       EXISTS (
           SELECT FROM reflex.scheduled WHERE trigger_id = asked.trigger_id AND event_id = batch.event_id
       ) OR EXISTS (
           SELECT FROM reflex.delivery WHERE trigger_id = asked.trigger_id AND event_id = batch.event_id
       ) OR EXISTS (
           SELECT FROM reflex.lease WHERE trigger_id = asked.trigger_id AND event_id = batch.event_id
       ) AS is_open
FROM unnest(%(trigger_id)s::int[], %(subject)s::text[]) AS asked (trigger_id, subject)
CROSS JOIN LATERAL (
    SELECT event_id, events
    FROM reflex.batch
    WHERE batch.trigger_id = asked.trigger_id AND batch.subject = asked.subject AND NOT batch.sealed
    FOR UPDATE
) AS batch

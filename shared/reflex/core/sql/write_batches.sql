-- Begin batches, or go on with them. One that is sealed takes nothing more. In the order that is given: a subject has one
-- that is not sealed.
INSERT INTO reflex.batch (trigger_id, event_id, subject, events, sealed, due_at)
SELECT trigger_id, event_id, subject, events, sealed, now() + due_in
FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[], %(subject)s::text[], %(events)s::int[], %(sealed)s::boolean[],
            %(due_in)s::interval[]) AS t (trigger_id, event_id, subject, events, sealed, due_in)
ON CONFLICT (trigger_id, event_id) DO UPDATE
SET events = excluded.events, sealed = excluded.sealed

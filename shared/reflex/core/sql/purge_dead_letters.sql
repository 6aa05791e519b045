-- Give up on dead letters for good. Each leaves a cancelled run behind, with nobody as its worker, so that its event
-- still says what became of the delivery; its journal is deleted. Locked in the order of their keys, as a retry does.
WITH purged AS (
    DELETE FROM reflex.dead_letter
    WHERE ctid = ANY(ARRAY(
        SELECT dead_letter.ctid
        FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS asked (trigger_id, event_id)
        JOIN reflex.dead_letter USING (trigger_id, event_id)
        ORDER BY dead_letter.trigger_id, dead_letter.event_id
        FOR UPDATE OF dead_letter
    ))
    RETURNING trigger_id, event_id, attempt, lease_epoch, reason
),
forgotten AS (
    DELETE FROM reflex.step
    USING purged
    WHERE step.trigger_id = purged.trigger_id AND step.event_id = purged.event_id
)
INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, error)
SELECT trigger_id, event_id, lease_epoch + 1, attempt, '00000000-0000-0000-0000-000000000000', now(), 'cancelled',
       'purged by a person; it was a dead letter (' || reason || ')'
FROM purged
RETURNING trigger_id, event_id

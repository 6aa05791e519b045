-- Give dead letters a new set of attempts. lease_epoch goes on counting, so their earlier runs stay distinct.
-- Rows are locked in the order of their keys: two retries of the same letters wait for each other instead of
-- deadlocking, and the second finds them gone. A dead letter is never updated, so the ctid of a locked row holds.
WITH chosen AS (
    DELETE FROM reflex.dead_letter
    WHERE ctid = ANY(ARRAY(
        SELECT dead_letter.ctid
        FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS asked (trigger_id, event_id)
        JOIN reflex.dead_letter USING (trigger_id, event_id)
        ORDER BY dead_letter.trigger_id, dead_letter.event_id
        FOR UPDATE OF dead_letter
    ))
    RETURNING trigger_id, event_id, lease_epoch
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, lease_epoch)
    SELECT trigger_id, event_id, lease_epoch
    FROM chosen
    RETURNING trigger_id, event_id
)
SELECT trigger_id, event_id,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM pending LIMIT 1) AS any_pending)::text AS notified
FROM pending

-- Give dead letters a new set of attempts. lease_epoch goes on counting, so their earlier runs stay distinct.
WITH chosen AS (
    DELETE FROM reflex.dead_letter
    USING unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS asked (trigger_id, event_id)
    WHERE dead_letter.trigger_id = asked.trigger_id AND dead_letter.event_id = asked.event_id
    RETURNING dead_letter.trigger_id, dead_letter.event_id, dead_letter.lease_epoch
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, lease_epoch)
    SELECT trigger_id, event_id, lease_epoch
    FROM chosen
    RETURNING trigger_id, event_id
)
SELECT trigger_id, event_id, pg_notify('reflex', '')::text AS notified
FROM pending

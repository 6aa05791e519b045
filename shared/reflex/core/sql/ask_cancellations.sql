-- Ask for the end of deliveries of a trigger that run, of all of them at once: the slot that one of them frees does not go
-- on with the next. A row back for each that was asked for. One that somebody has locked is passed by, since who settles
-- several locks them in another order.
INSERT INTO reflex.cancellation (trigger_id, event_id, reason)
SELECT held.trigger_id, held.event_id, %(reason)s::text
FROM (
    SELECT trigger_id, event_id
    FROM reflex.lease
    WHERE trigger_id = %(trigger_id)s::int AND event_id = ANY(%(event_ids)s::uuid[])
    FOR KEY SHARE SKIP LOCKED
) AS held
ON CONFLICT (trigger_id, event_id) DO NOTHING
RETURNING event_id, pg_notify('reflex_cancel', '')::text AS notified

-- Ask for the end of a delivery that runs: its worker is told, and takes it from there. No row back: it does not run
-- (any more), or somebody has asked before.
INSERT INTO reflex.cancellation (trigger_id, event_id, reason)
SELECT held.trigger_id, held.event_id, %(reason)s::text
FROM (
    SELECT trigger_id, event_id
    FROM reflex.lease
    WHERE trigger_id = %(trigger_id)s::int AND event_id = %(event_id)s::uuid
    FOR KEY SHARE
) AS held
ON CONFLICT (trigger_id, event_id) DO NOTHING
RETURNING pg_notify('reflex_cancel', '')::text AS notified

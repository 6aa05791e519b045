-- Remove the intent of a call that is known not to have done its work. Fenced as in journal_step: no row, no lease.
WITH held AS (
    SELECT trigger_id, event_id, lease_epoch
    FROM reflex.lease
    WHERE trigger_id = %(trigger_id)s::int
      AND event_id = %(event_id)s::uuid
      AND lease_epoch = %(lease_epoch)s::int
    FOR KEY SHARE
),
withdrawn AS (
    DELETE FROM reflex.step
    USING held
    WHERE step.trigger_id = held.trigger_id AND step.event_id = held.event_id
      AND step.fingerprint = %(fingerprint)s::bytea AND step.occurrence = %(occurrence)s::int AND step.kind = 'intent'
)
SELECT lease_epoch
FROM held

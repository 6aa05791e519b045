-- Write down why it is not known what became of a call, before its delivery waits for somebody who says so.
-- Fenced as in journal_step: no row, no lease. Not kept: somebody has just said so. Who does locks the row, and looks
-- for a lease afterwards: so either they find this run, or this run finds what they said.
WITH held AS (
    SELECT trigger_id, event_id, lease_epoch
    FROM reflex.lease
    WHERE trigger_id = %(trigger_id)s::int
      AND event_id = %(event_id)s::uuid
      AND lease_epoch = %(lease_epoch)s::int
    FOR KEY SHARE
),
kept AS (
    UPDATE reflex.step
    SET result = %(result)s::json
    FROM held
    WHERE step.trigger_id = held.trigger_id AND step.event_id = held.event_id
      AND step.fingerprint = %(fingerprint)s::bytea AND step.occurrence = %(occurrence)s::int AND step.kind = 'intent'
    RETURNING step.occurrence
)
SELECT EXISTS (SELECT FROM kept) AS kept
FROM held

-- Journal one completed step of a run, if the run still has its lease.
-- FOR KEY SHARE makes the fence exact: whoever takes the lease away waits for this statement, or this one for them
-- and then finds no lease. No row returned: the lease is lost.
-- The same step again is no conflict: after a broken connection it is not known whether the first write was kept.
INSERT INTO reflex.step (trigger_id, event_id, fingerprint, occurrence, kind, position, result, lease_epoch)
SELECT held.trigger_id, held.event_id, %(fingerprint)s::bytea, %(occurrence)s::int, %(kind)s::text,
       %(position)s::int, %(result)s::json, held.lease_epoch
FROM (
    SELECT trigger_id, event_id, lease_epoch
    FROM reflex.lease
    WHERE trigger_id = %(trigger_id)s::int
      AND event_id = %(event_id)s::uuid
      AND lease_epoch = %(lease_epoch)s::int
    FOR KEY SHARE
) AS held
ON CONFLICT (trigger_id, event_id, fingerprint, occurrence) DO UPDATE
SET kind = excluded.kind, position = excluded.position, result = excluded.result,
    lease_epoch = excluded.lease_epoch, created_at = excluded.created_at
RETURNING lease_epoch

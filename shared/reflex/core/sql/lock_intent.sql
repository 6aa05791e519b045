-- The intent that somebody is about to decide on, locked: a run that is about to wait for that waits for them.
SELECT fingerprint, occurrence, result::text AS document
FROM reflex.step
WHERE trigger_id = %(trigger_id)s::int AND event_id = %(event_id)s::uuid AND position = %(position)s::int
  AND kind = 'intent'
FOR UPDATE

-- Remove an intent: somebody says that it was not carried out, or its delivery has ended.
DELETE FROM reflex.step
WHERE trigger_id = %(trigger_id)s::int AND event_id = %(event_id)s::uuid
  AND fingerprint = %(fingerprint)s::bytea AND occurrence = %(occurrence)s::int

-- Turn an intent into the result that somebody says it had.
UPDATE reflex.step
SET kind = 'effect', result = %(document)s::json
WHERE trigger_id = %(trigger_id)s::int AND event_id = %(event_id)s::uuid
  AND fingerprint = %(fingerprint)s::bytea AND occurrence = %(occurrence)s::int

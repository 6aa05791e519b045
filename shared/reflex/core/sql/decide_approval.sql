-- Keep a decision, if there is none yet, the time for it is not over, and the call is the one that was looked at.
-- No row returned: somebody was faster.
UPDATE reflex.approval
SET decision = %(decision)s::text, decided_at = now(), decided_by = %(decided_by)s::text,
    edited_arguments = %(edited_arguments)s::json, reason = %(reason)s::text
WHERE approval_id = %(approval_id)s::uuid
  AND decided_at IS NULL
  AND expires_at > now()
  AND digest = decode(%(digest)s::text, 'hex')
RETURNING approval_id

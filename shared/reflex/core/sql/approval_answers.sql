-- What people said to questions of one run, as far as they did.
SELECT approval_id, digest, decision, edited_arguments::text, reason, decided_by, created_at, expires_at, now()
FROM reflex.approval
WHERE approval_id = ANY(%(approval_id)s::uuid[])

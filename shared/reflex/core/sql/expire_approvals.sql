-- Say of approvals that nobody decided in time that it is too late. Nobody can decide them any more.
UPDATE reflex.approval
SET decision = 'expired', decided_at = now()
WHERE approval_id = ANY(%(approval_id)s::uuid[])
  AND decided_at IS NULL
  AND expires_at <= now()
RETURNING approval_id

-- Lock approvals that a run has just found pending, and say which of them were decided meanwhile.
-- Whoever decides one has it locked until the commit, and makes those due that wait then. A run that begins to wait
-- holds it here until its own commit: either it sees the decision, or who decides sees that it waits.
SELECT approval_id, trigger_id, event_id, decided_at IS NOT NULL AS decided
FROM reflex.approval
WHERE approval_id = ANY(%(approval_id)s::uuid[])
ORDER BY approval_id
FOR SHARE

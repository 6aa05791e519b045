-- Allow more in one budget, in this window: what a person has added stays added.
UPDATE reflex.spend
SET raised = raised + %(amount)s::numeric
WHERE spend_id = %(spend_id)s::bigint
RETURNING trigger_id, scope, subject, quantity, allowed + raised AS total

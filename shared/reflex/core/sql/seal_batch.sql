-- The batch of a delivery takes nothing more, and is about to be handed over. Waits for who adds to it just now. No row:
-- the delivery has no batch.
UPDATE reflex.batch
SET sealed = true
WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s
RETURNING event_id

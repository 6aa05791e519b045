-- The id that a client sent an event with; no row if it sent none.
SELECT key
FROM reflex.idempotency
WHERE event_id = %(event_id)s

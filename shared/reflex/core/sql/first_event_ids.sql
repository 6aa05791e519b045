-- The event that first used each idempotency key, for the answer to a duplicate.
SELECT idempotency.source, idempotency.key, idempotency.event_id
FROM unnest(%(source)s::text[], %(key)s::text[]) AS asked (source, key)
JOIN reflex.idempotency USING (source, key)

-- What earlier attempts at a delivery have completed and paid for, in the order in which they did.
-- The result as text: what reads it is pydantic, and a number of a tool's may be larger than other parsers take.
SELECT kind, fingerprint, occurrence, position, result::text
FROM reflex.step
WHERE trigger_id = %(trigger_id)s::int AND event_id = %(event_id)s::uuid
ORDER BY position, created_at

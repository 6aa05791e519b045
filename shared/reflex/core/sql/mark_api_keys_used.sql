-- That these API keys were used; at most once a minute each, however many gateways say so.
-- A row that another gateway is marking is skipped: nobody waits, and rows locked crosswise cannot be.
UPDATE reflex.api_key
SET last_used_at = coalesce(%(now)s::timestamptz, now())
WHERE ctid = ANY(ARRAY(
    SELECT ctid
    FROM reflex.api_key
    WHERE key_id = ANY(%(key_ids)s::text[])
      AND (last_used_at IS NULL OR last_used_at <= coalesce(%(now)s::timestamptz, now()) - interval '1 minute')
    FOR UPDATE SKIP LOCKED
))

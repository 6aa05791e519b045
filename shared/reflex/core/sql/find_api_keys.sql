-- What a gateway has to know of the API keys with these ids. Ids that are not there are left out.
-- valid_s is how much longer a key is valid, by the clock of the database: a gateway's own is never compared with a
-- moment that is stored. Null is for ever; zero or less is over.
SELECT key_id, digest, scopes, types, sources, rate, quota,
       CASE WHEN revoked_at IS NOT NULL THEN 0
            ELSE extract(epoch FROM expires_at - coalesce(%(now)s::timestamptz, now())) END::float8 AS valid_s
FROM reflex.api_key
WHERE key_id = ANY(%(key_ids)s::text[])

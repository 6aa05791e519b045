-- All API keys, the newest first, without their digests. Revoked and expired ones stay: their names say whose they were.
SELECT key_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, types, sources, rate, quota,
       CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
            WHEN expires_at <= coalesce(%(now)s::timestamptz, now()) THEN 'expired'
            ELSE 'valid' END AS state
FROM reflex.api_key
ORDER BY created_at DESC, key_id

-- End an API key for good. One that is revoked already keeps the moment of the first time.
UPDATE reflex.api_key
SET revoked_at = coalesce(revoked_at, %(now)s::timestamptz, now())
WHERE key_id = %(key_id)s
RETURNING key_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, types, sources, rate, quota,
          'revoked' AS state

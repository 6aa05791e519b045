-- A new API key. Its id is random: one that exists already is not overwritten but an error, and has to be made anew.
INSERT INTO reflex.api_key (key_id, digest, name, scopes, created_at, expires_at, types, sources)
VALUES (
    %(key_id)s,
    %(digest)s,
    %(name)s,
    %(scopes)s::text[],
    coalesce(%(now)s::timestamptz, now()),
    coalesce(%(now)s::timestamptz, now()) + %(lasts)s::interval,
    %(types)s::text[],
    %(sources)s::text[]
)
RETURNING key_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, types, sources,
          'valid' AS state

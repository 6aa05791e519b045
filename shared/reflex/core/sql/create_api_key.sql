-- A new API key. Its id is random: one that exists already is not overwritten but an error, and has to be made anew.
-- One with limits begins with a full bucket and an unused day.
WITH made AS (
    INSERT INTO reflex.api_key (key_id, digest, name, scopes, created_at, expires_at, types, sources, rate, quota)
    VALUES (
        %(key_id)s,
        %(digest)s,
        %(name)s,
        %(scopes)s::text[],
        coalesce(%(now)s::timestamptz, now()),
        coalesce(%(now)s::timestamptz, now()) + %(lasts)s::interval,
        %(types)s::text[],
        %(sources)s::text[],
        %(rate)s::float8,
        %(quota)s::bigint
    )
    RETURNING key_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, types, sources, rate, quota
), allowed AS (
    INSERT INTO reflex.allowance (key_id, tokens, refilled_at, day)
    SELECT key_id, greatest(coalesce(rate, 0), 1), created_at, (created_at AT TIME ZONE 'UTC')::date
    FROM made
    WHERE rate IS NOT NULL OR quota IS NOT NULL
)
SELECT *, 'valid' AS state
FROM made

-- A portion of what a key may still publish, for a gateway to hand out by itself: all of what is needed, or nothing.
-- `rated` and `counted` are what is needed of the rate and of the day's quota; `portion` is how much of the rate the
-- gateway would like. Of the quota it gets up to a hundredth, and never more than a quarter of what is left.
-- More than the bucket holds passes when it is full, and leaves it in debt.
-- Another gateway may have written the row while this one waited for it, at a later moment than this statement's: time
-- never goes back, neither that of the bucket nor the day.
-- Locked first and then computed: what an UPDATE's own expressions share would be written three times.
WITH locked AS (
    SELECT a.key_id, k.rate, k.quota, greatest(k.rate, 1) AS burst, a.tokens, a.refilled_at, a.day, a.used
    FROM reflex.allowance AS a
    JOIN reflex.api_key AS k USING (key_id)
    WHERE a.key_id = %(key_id)s
    FOR UPDATE OF a
), moved AS (
    SELECT locked.*, greatest(refilled_at, at) AS at, greatest(day, (at AT TIME ZONE 'UTC')::date) AS today
    FROM locked, (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS at) AS clock
), state AS (
    SELECT key_id, rate, quota, burst, at, today,
           CASE WHEN rate IS NOT NULL
                THEN least(burst, tokens + rate * extract(epoch FROM at - refilled_at)::float8) END AS available,
           CASE WHEN day = today THEN used ELSE 0 END AS spent,
           least(%(rated)s::float8, burst) AS bar
    FROM moved
), decided AS (
    SELECT *,
           coalesce(available >= bar - 1e-6, true) AND coalesce(quota - spent >= %(counted)s::bigint, true) AS granted,
           CASE WHEN rate IS NOT NULL AND %(rated)s::float8 > 0
                THEN greatest(%(rated)s::float8, least(%(portion)s::float8, floor(available))) ELSE 0 END AS rated,
           CASE WHEN quota IS NOT NULL AND %(counted)s::bigint > 0
                THEN greatest(%(counted)s::bigint, least(quota / 100, (quota - spent) / 4)) ELSE 0 END AS counted
    FROM state
), written AS (
    UPDATE reflex.allowance AS a
    SET tokens = coalesce(available - rated, a.tokens),
        refilled_at = at,
        day = today,
        used = spent + counted
    FROM decided
    WHERE a.key_id = decided.key_id AND granted
)
SELECT granted,
       CASE WHEN granted THEN rated ELSE 0 END AS rated,
       CASE WHEN granted THEN counted ELSE 0 END AS counted,
       coalesce(available, 0) AS available,
       quota - spent AS quota_left,
       extract(epoch FROM (today + 1)::timestamp AT TIME ZONE 'UTC' - at)::float8 AS day_ends_s
FROM decided

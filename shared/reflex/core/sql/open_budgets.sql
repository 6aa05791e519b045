-- Make the rows of budgets that are asked for the first time, or the first time in their window. They are kept for a
-- week after their window, or after they were last asked for.
-- In one order, so that two who do this at once wait for one another and never deadlock.
INSERT INTO reflex.spend (trigger_id, scope, subject, quantity, period, window_at, ends_at, allowed, expires_at)
SELECT owner, scope, subject, quantity, period, window_at, ends_at, allowed, coalesce(ends_at, at) + interval '7 days'
FROM (
    SELECT owner, scope, subject, quantity, period, allowed, at,
           CASE WHEN zone IS NOT NULL THEN date_trunc('day', at AT TIME ZONE zone) AT TIME ZONE zone
                WHEN every IS NOT NULL THEN date_bin(every, at, 'epoch')
                ELSE 'epoch'
           END AS window_at,
           CASE WHEN zone IS NOT NULL
                THEN (date_trunc('day', at AT TIME ZONE zone) + interval '1 day') AT TIME ZONE zone
                WHEN every IS NOT NULL THEN date_bin(every, at, 'epoch') + every
           END AS ends_at
    FROM unnest(
        %(owner)s::int[], %(scope)s::text[], %(subject)s::text[], %(quantity)s::text[], %(period)s::text[],
        %(zone)s::text[], %(every)s::interval[], %(allowed)s::numeric[]
    ) AS t (owner, scope, subject, quantity, period, zone, every, allowed)
    CROSS JOIN (SELECT coalesce(%(now)s::timestamptz, now()) AS at) AS clock
) AS asked
ORDER BY owner, scope, subject, quantity, period, window_at
ON CONFLICT (trigger_id, scope, subject, quantity, period, window_at) DO NOTHING

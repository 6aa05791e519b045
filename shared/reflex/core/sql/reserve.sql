-- Set aside what one call may cost, in all the budgets that apply to it or in none.
-- No row: the lease is lost, and nothing may be paid for any more. The lock on the lease makes that exact.
-- All rows are locked first, in the order of their ids, so that calls that share budgets wait and never deadlock; what
-- was locked is as it is now, not as the snapshot has it. A budget that has no row yet is not made here: a row that
-- somebody else makes at the same time would not be seen. `whole` is false then (`open_budgets`).
-- Of a budget of which nothing is spent or set aside, any call is granted: one that is estimated at more than the whole
-- budget would wait for ever otherwise.
-- The commit does not wait for the disk, or the rows of a busy budget would stay locked for that long. If the server
-- crashes now, what was set aside is lost together with the reservation, and settling counts what was spent.
WITH held AS MATERIALIZED (
    SELECT trigger_id, event_id, lease_epoch
    FROM reflex.lease
    WHERE trigger_id = %(trigger_id)s::int
      AND event_id = %(event_id)s::uuid
      AND lease_epoch = %(lease_epoch)s::int
    FOR KEY SHARE
),
asked AS (
    SELECT place, owner, scope, subject, quantity, period, amount, allowed, at,
           CASE WHEN zone IS NOT NULL THEN date_trunc('day', at AT TIME ZONE zone) AT TIME ZONE zone
                WHEN every IS NOT NULL THEN date_bin(every, at, 'epoch')
                ELSE 'epoch'
           END AS window_at
    FROM unnest(
        %(owner)s::int[], %(scope)s::text[], %(subject)s::text[], %(quantity)s::text[], %(period)s::text[],
        %(zone)s::text[], %(every)s::interval[], %(amount)s::numeric[], %(allowed)s::numeric[]
    ) WITH ORDINALITY AS t (owner, scope, subject, quantity, period, zone, every, amount, allowed, place)
    CROSS JOIN (SELECT coalesce(%(now)s::timestamptz, now()) AS at) AS clock
),
locked AS MATERIALIZED (
    SELECT asked.place, asked.amount, asked.allowed, asked.at, spend.spend_id, spend.spent, spend.reserved,
           spend.ends_at, asked.allowed + spend.raised AS total
    FROM held
    CROSS JOIN asked
    JOIN reflex.spend
      ON spend.trigger_id = asked.owner AND spend.scope = asked.scope AND spend.subject = asked.subject
     AND spend.quantity = asked.quantity AND spend.period = asked.period AND spend.window_at = asked.window_at
    ORDER BY spend.spend_id
    FOR UPDATE OF spend
),
judged AS MATERIALIZED (
    SELECT locked.*,
           %(force)s::boolean OR spent + reserved + amount <= total
           OR (spent = 0 AND reserved = 0 AND total > 0) AS fits
    FROM locked
),
verdict AS MATERIALIZED (
    SELECT count(*) = cardinality(%(scope)s::text[]) AS whole,
           count(*) FILTER (WHERE fits) = cardinality(%(scope)s::text[]) AS granted
    FROM judged
),
kept AS (
    UPDATE reflex.spend
    SET reserved   = judged.reserved + CASE WHEN verdict.granted THEN judged.amount ELSE 0 END,
        allowed    = judged.allowed,
        refused_at = CASE WHEN judged.fits THEN NULL ELSE judged.at END,
        expires_at = greatest(spend.expires_at, judged.at + interval '7 days')
    FROM judged
    CROSS JOIN verdict
    WHERE spend.spend_id = judged.spend_id AND verdict.whole
),
noted AS (
    INSERT INTO reflex.reservation (reservation_id, trigger_id, event_id, lease_epoch, spend_ids, amounts)
    SELECT %(reservation_id)s::uuid, held.trigger_id, held.event_id, held.lease_epoch,
           ARRAY(SELECT spend_id FROM judged ORDER BY spend_id), ARRAY(SELECT amount FROM judged ORDER BY spend_id)
    FROM held
    CROSS JOIN verdict
    WHERE verdict.granted
)
SELECT verdict.whole, verdict.granted, judged.place, judged.spend_id, judged.spent, judged.reserved, judged.total,
       judged.fits, judged.ends_at, judged.at, set_config('synchronous_commit', 'off', true)
FROM held
CROSS JOIN verdict
LEFT JOIN judged ON true
ORDER BY judged.place

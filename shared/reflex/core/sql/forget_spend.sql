-- Delete the rows of budgets that nobody asks for any more: a week after the end of their window, or after they were
-- last asked for. A delivery that is parked asks every hour.
DELETE FROM reflex.spend
WHERE spend_id = ANY(ARRAY(
    SELECT spend_id
    FROM reflex.spend
    WHERE expires_at < coalesce(%(now)s::timestamptz, now()) AND reserved = 0
    ORDER BY expires_at
    LIMIT %(limit)s::int
    FOR UPDATE SKIP LOCKED
))

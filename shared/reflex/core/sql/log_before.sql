-- Up to where the log was given its order before a moment; no row if nothing was.
-- There is no index by time, but positions follow it: halving finds the place with a few looks at the key, however long
-- the log is. `high` is a position from which on all is younger, `low` one that is not. Where the database's clock was
-- set back, time goes to and fro; one of the places in question is found.
-- OFFSET 0: it is asked once a step, and not once for each of its uses.
WITH RECURSIVE halved AS (
    SELECT log_start.position - 1 AS low,
           coalesce((SELECT position FROM reflex.log ORDER BY position DESC LIMIT 1), log_start.position) + 1 AS high
    FROM reflex.log_start
    UNION ALL
    SELECT CASE WHEN next.is_older THEN halved.middle ELSE halved.low END,
           CASE WHEN next.is_older THEN halved.high ELSE halved.middle END
    FROM (SELECT low, high, low + (high - low) / 2 AS middle FROM halved WHERE high - low > 1) AS halved
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT placed_at < coalesce(%(now)s::timestamptz, now()) - %(age)s::interval
            FROM reflex.log
            WHERE position >= halved.middle
            ORDER BY position
            LIMIT 1
        ), false) AS is_older
        OFFSET 0
    ) AS next
)
SELECT last.position, cardinality(last.event_ids) AS place
FROM halved
CROSS JOIN LATERAL (
    SELECT position, event_ids
    FROM reflex.log
    WHERE position < halved.high
    ORDER BY position DESC
    LIMIT 1
) AS last
WHERE halved.high - halved.low <= 1

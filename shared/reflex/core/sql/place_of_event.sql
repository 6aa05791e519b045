-- Where an event stands in the log, NULL if it has no place there (yet, or any more); and whether there is such an event.
-- The log is ordered by position and has no index by event: halving finds about where it was when the event was appended,
-- as in log_before, and from there it is a few appends to the event's. A second is allowed for clocks and open commits.
WITH RECURSIVE event AS MATERIALIZED (
    SELECT created_at - interval '1 second' AS since
    FROM reflex.event
    WHERE event_id = %(event_id)s
),
halved AS (
    SELECT log_start.position - 1 AS low,
           coalesce((SELECT position FROM reflex.log ORDER BY position DESC LIMIT 1), log_start.position) + 1 AS high
    FROM reflex.log_start
    UNION ALL
    SELECT CASE WHEN next.is_older THEN halved.middle ELSE halved.low END,
           CASE WHEN next.is_older THEN halved.high ELSE halved.middle END
    FROM (SELECT low, high, low + (high - low) / 2 AS middle FROM halved WHERE high - low > 1) AS halved
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT placed_at < (SELECT since FROM event)
            FROM reflex.log
            WHERE position >= halved.middle
            ORDER BY position
            LIMIT 1
        ), false) AS is_older
        OFFSET 0
    ) AS next
)
SELECT near.position, array_position(near.event_ids, %(event_id)s::uuid) AS place,
       EXISTS (SELECT FROM event) AS is_there
FROM halved
LEFT JOIN LATERAL (
    SELECT position, event_ids
    FROM (SELECT position, event_ids FROM reflex.log WHERE position >= halved.low ORDER BY position LIMIT 10000) AS ahead
    WHERE %(event_id)s::uuid = ANY(event_ids)
    ORDER BY position
    LIMIT 1
) AS near ON true
WHERE halved.high - halved.low <= 1

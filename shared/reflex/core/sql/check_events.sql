-- The newest events, by the order of the log and not by their ids: an id tells the clock of who made it, and one from a
-- machine whose clock is late is not among the greatest. Those that have no place in the log yet come first. What a run
-- publishes is left out: it gets its id at once and is committed when the run ends.
WITH appends AS (
    (SELECT event_ids FROM reflex.appended ORDER BY append_id DESC LIMIT %(limit)s::int)
    UNION ALL
    (SELECT event_ids FROM reflex.log ORDER BY position DESC LIMIT %(limit)s::int)
)
SELECT event.event_id, event.source, event.created_at
FROM appends
CROSS JOIN LATERAL (SELECT event_ids[1] AS event_id) AS first
JOIN reflex.event USING (event_id)
WHERE event.causation_id IS NULL

-- Up to where the log was dropped, and where it ends. Rows from before its beginning are not part of it any more: they
-- are there for those of their events that somebody still needs.
SELECT log_start.position AS start_position, log_start.place AS start_place,
       coalesce(last.position, log_start.position) AS position, coalesce(last.place, log_start.place) AS place
FROM reflex.log_start
LEFT JOIN LATERAL (
    SELECT position, cardinality(event_ids) AS place
    FROM reflex.log
    WHERE position >= log_start.position
    ORDER BY position DESC
    LIMIT 1
) AS last ON true

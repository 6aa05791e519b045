-- Up to where the log was dropped, and where it ends.
SELECT log_start.position AS start_position, log_start.place AS start_place,
       coalesce(last.position, log_start.position) AS position, coalesce(last.place, log_start.place) AS place
FROM reflex.log_start
LEFT JOIN LATERAL (
    SELECT position, cardinality(event_ids) AS place
    FROM reflex.log
    ORDER BY position DESC
    LIMIT 1
) AS last ON true

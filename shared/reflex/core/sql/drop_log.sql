-- Drop the order of everything up to a place in the log: remember how far, so that a reader from before it is told.
-- The rows stay until their events are gone (`prune_events` finds them behind the beginning); nobody reads them.
-- A place that is ahead of the log means its end: a beginning ahead of it would refuse the cursors of readers that have
-- read everything.
WITH last AS (
    SELECT position, CASE position WHEN %(position)s THEN least(%(place)s, cardinality(event_ids))
                                   ELSE cardinality(event_ids) END AS place
    FROM reflex.log
    WHERE position <= %(position)s::bigint - CASE WHEN %(place)s::int > 0 THEN 0 ELSE 1 END
    ORDER BY position DESC
    LIMIT 1
)
UPDATE reflex.log_start
SET position = last.position, place = last.place
FROM last
WHERE (log_start.position, log_start.place) < (last.position, last.place)

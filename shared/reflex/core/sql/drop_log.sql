-- Drop the order of everything up to a position, and remember how far: a reader from before it is told.
WITH dropped AS (
    DELETE FROM reflex.log
    WHERE position <= %(position)s
    RETURNING position, cardinality(event_ids) AS place
)
UPDATE reflex.log_start
SET position = last.position, place = last.place
FROM (SELECT position, place FROM dropped ORDER BY position DESC LIMIT 1) AS last

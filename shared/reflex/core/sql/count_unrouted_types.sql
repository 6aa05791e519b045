-- The types of which events wait for a trigger, with how many, counted up to a limit.
-- The recursion jumps from type to type in the index; DISTINCT would read every unrouted event.
WITH RECURSIVE seen AS (
    (SELECT type FROM reflex.unrouted ORDER BY type LIMIT 1)
    UNION ALL
    SELECT (SELECT type FROM reflex.unrouted WHERE unrouted.type > seen.type ORDER BY type LIMIT 1)
    FROM seen
    WHERE seen.type IS NOT NULL
)
SELECT seen.type,
       (
           SELECT count(*)
           FROM (SELECT FROM reflex.unrouted WHERE unrouted.type = seen.type LIMIT %(count_limit)s) AS counted
       ) AS unrouted
FROM seen
WHERE seen.type IS NOT NULL
LIMIT %(limit)s

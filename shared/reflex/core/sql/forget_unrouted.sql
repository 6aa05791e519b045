-- Forget up to %(limit)s unrouted events before an id that are gone with their partition. Whoever is just handing one to a
-- trigger finds that as well, and is not waited for. The recursion jumps from type to type in the index; OFFSET 0 makes
-- the planner look each event up.
WITH RECURSIVE seen AS (
    (SELECT type FROM reflex.unrouted ORDER BY type LIMIT 1)
    UNION ALL
    SELECT (SELECT type FROM reflex.unrouted WHERE unrouted.type > seen.type ORDER BY type LIMIT 1)
    FROM seen
    WHERE seen.type IS NOT NULL
),
gone AS (
    SELECT old.ctid
    FROM seen
    CROSS JOIN LATERAL (
        SELECT ctid
        FROM reflex.unrouted
        WHERE unrouted.type = seen.type AND unrouted.event_id < %(event_id)s
          AND NOT EXISTS (SELECT FROM reflex.event WHERE event.event_id = unrouted.event_id OFFSET 0)
        ORDER BY event_id
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ) AS old
    LIMIT %(limit)s
),
forgotten AS (
    DELETE FROM reflex.unrouted WHERE ctid = ANY(ARRAY(SELECT ctid FROM gone)) RETURNING event_id
)
SELECT count(*) FROM forgotten

-- Give up to %(limit)s appends their position in the log, in the order in which their numbers were drawn.
-- One transaction at a time does this, and the lock is let go when its rows can be seen: so no position becomes
-- visible after a greater one, which is what lets a reader go on from the last it has seen. Whoever finds the lock
-- taken does nothing; its holder tells the readers.
-- The order is that of commits: an append that ended before another began has the lower number, and is seen by every
-- snapshot that sees the other. It waits for no transaction but those that have not committed their own append.
-- %(after)s is only there to skip what was placed and not vacuumed: nothing up to it is left.
-- The lock is taken after this statement's snapshot. What another placer moved in between is found deleted and left.
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(7305412002) AS mine
),
taken AS (
    DELETE FROM reflex.appended
    WHERE ctid = ANY(ARRAY(
        SELECT unplaced.ctid
        FROM turn
        CROSS JOIN LATERAL (
            SELECT appended.ctid
            FROM reflex.appended
            WHERE turn.mine AND append_id > %(after)s
            ORDER BY append_id
            LIMIT %(limit)s
        ) AS unplaced
    ))
    RETURNING append_id, event_ids
),
placed AS (
    INSERT INTO reflex.log (event_ids)
    SELECT event_ids
    FROM taken
    ORDER BY append_id
    RETURNING position
)
SELECT (SELECT count(*) FROM placed) AS placed, (SELECT mine FROM turn) AS mine,
       (SELECT pg_notify('reflex_log', '') FROM (SELECT 1 FROM placed LIMIT 1) AS any_placed)::text AS notified

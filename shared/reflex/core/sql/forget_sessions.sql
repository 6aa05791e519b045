-- Forget sessions that nobody has used for a while. One that is being written is left alone.
WITH forgotten AS (
    DELETE FROM reflex.session
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM reflex.session
        WHERE seen_at < coalesce(%(now)s::timestamptz, now()) - %(age)s::interval
        ORDER BY seen_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING session_id
)
SELECT count(*) AS forgotten FROM forgotten

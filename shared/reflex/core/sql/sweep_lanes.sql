-- Remove lanes that are empty. Locked ones are skipped, and one that an append has just filled is no longer at the
-- place where this statement's snapshot saw it.
WITH swept AS (
    DELETE FROM reflex.lane
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM reflex.lane
        WHERE empty
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING trigger_id
)
SELECT count(*) AS swept FROM swept

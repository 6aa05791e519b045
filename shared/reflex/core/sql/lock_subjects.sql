-- Lock what triggers have seen of subjects, until the end of the transaction. A statement of its own: the next one has a
-- snapshot from after the lock. Not the subject itself is locked but one of 64 places for each trigger: an exchange of a
-- thousand deliveries would fill the lock table. Taken in one order everywhere. If this process is frozen with the locks,
-- the server ends its transaction.
WITH place AS MATERIALIZED (
    SELECT DISTINCT trigger_id, hashtext(subject) & 63 AS number
    FROM unnest(%(trigger_id)s::int[], %(subject)s::text[]) AS t (trigger_id, subject)
    ORDER BY 1, 2
)
SELECT count(pg_advisory_xact_lock(730541000 + trigger_id, number)::text) AS locked,
       set_config('idle_in_transaction_session_timeout', '5s', true) AS standstill
FROM place

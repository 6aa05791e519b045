-- Whether it is this transaction's turn to remove old events, or to give them to a trigger again: one at a time does
-- either, for a delivery that is made anew is seen by nobody who looked before. A statement of its own: the next one
-- has a snapshot from after the lock. If this process is frozen with the turn, the server ends its transaction.
SELECT CASE
           WHEN %(wait)s THEN pg_advisory_xact_lock(7305412003)::text IS NOT NULL
           ELSE pg_try_advisory_xact_lock(7305412003)
       END AS mine,
       set_config('idle_in_transaction_session_timeout', '5s', true) AS standstill

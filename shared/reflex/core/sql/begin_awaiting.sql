-- Keep for which events a delivery waits, in the transaction that settles its run and makes its row of `waiting`: both
-- have the time of that transaction as `since`. Somebody has to look at what came since the run itself looked last, at
-- once, or after %(quiet)s if it was woken for nothing too often.
INSERT INTO reflex.awaited (trigger_id, event_id, number, type_low, type_high, key, position, look_at)
VALUES (%(trigger_id)s::int, %(event_id)s::uuid, %(number)s::int, %(type_low)s::text[], %(type_high)s::text[],
        %(key)s::text, %(position)s::bigint, now() + %(quiet)s::interval)
RETURNING pg_notify('reflex_await', '')::text AS notified

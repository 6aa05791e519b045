-- An event was let through, as one of these subjects. By the clock and not by the beginning of the transaction, which may
-- have waited for the lock: so the times follow the order of the decisions.
INSERT INTO reflex.passed (event_id, trigger_id, subject, passed_at, expires_at)
SELECT %(event_id)s::uuid, %(trigger_id)s::int, subject, clock_timestamp(), clock_timestamp() + within
FROM unnest(%(subject)s::text[], %(within)s::interval[]) AS t (subject, within)
ON CONFLICT (event_id, trigger_id, subject) DO UPDATE
SET passed_at = excluded.passed_at, expires_at = excluded.expires_at

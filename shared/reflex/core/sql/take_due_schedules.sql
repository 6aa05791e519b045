-- Lock the due schedules among these, and those whose first fire is not planned yet. A row that another worker fires
-- is skipped, and one that it has just moved on is not due any more: each planned time is decided by one worker.
-- The last event is given only if the next one has to wait for it.
-- `now` is the start of the transaction: all that is decided in it goes by one moment.
SELECT schedule_id, name, spec, missed, overlap, type, payload::text AS payload, key, started_at, next_at,
       CASE WHEN overlap = 'skip' THEN last_event_id END AS last_event_id,
       coalesce(%(now)s::timestamptz, now()) AS now
FROM reflex.schedule
WHERE schedule_id = ANY(%(schedule_ids)s::int[])
  AND retired_at IS NULL
  AND (next_at IS NULL OR next_at <= coalesce(%(now)s::timestamptz, now()))
ORDER BY next_at NULLS FIRST
LIMIT %(limit)s
FOR UPDATE OF schedule SKIP LOCKED

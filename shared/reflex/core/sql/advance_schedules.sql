-- Move schedules on to their next fire, in the transaction that appended the events of this one. Whoever calls it holds
-- the locks of take_due_schedules. Without an event, last_at and last_event_id stay.
UPDATE reflex.schedule
SET next_at       = given.next_at,
    last_at       = coalesce(given.last_at, schedule.last_at),
    last_event_id = coalesce(given.last_event_id, schedule.last_event_id),
    fired         = schedule.fired + given.fired,
    skipped       = schedule.skipped + given.skipped
FROM unnest(
    %(schedule_id)s::int[], %(next_at)s::timestamptz[], %(last_at)s::timestamptz[], %(last_event_id)s::uuid[],
    %(fired)s::bigint[], %(skipped)s::bigint[]
) AS given (schedule_id, next_at, last_at, last_event_id, fired, skipped)
WHERE schedule.schedule_id = given.schedule_id

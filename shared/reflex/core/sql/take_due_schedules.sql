-- Lock the due schedules among these, and those whose first fire is not planned yet. A row that another worker fires
-- is skipped, and one that it has just moved on is not due any more: each planned time is decided by one worker.
-- `busy`: a delivery of the last event is still pending, scheduled or running. The tables are keyed by trigger first,
-- so each trigger is looked up; one statement is one snapshot, in which a delivery that moves is in one of the places.
-- `now` is the start of the transaction: all that is decided in it goes by one moment.
SELECT schedule_id, name, spec, missed, overlap, type, payload::text AS payload, key, started_at, next_at,
       overlap = 'skip' AND last_event_id IS NOT NULL AND EXISTS (
           SELECT
           FROM reflex.trigger
           WHERE EXISTS (SELECT FROM reflex.delivery AS place
                         WHERE place.trigger_id = trigger.trigger_id AND place.event_id = schedule.last_event_id)
              OR EXISTS (SELECT FROM reflex.scheduled AS place
                         WHERE place.trigger_id = trigger.trigger_id AND place.event_id = schedule.last_event_id)
              OR EXISTS (SELECT FROM reflex.ordered AS place
                         WHERE place.trigger_id = trigger.trigger_id AND place.event_id = schedule.last_event_id)
              OR EXISTS (SELECT FROM reflex.lease AS place
                         WHERE place.trigger_id = trigger.trigger_id AND place.event_id = schedule.last_event_id)
       ) AS busy,
       coalesce(%(now)s::timestamptz, now()) AS now
FROM reflex.schedule
WHERE schedule_id = ANY(%(schedule_ids)s::int[])
  AND retired_at IS NULL
  AND (next_at IS NULL OR next_at <= coalesce(%(now)s::timestamptz, now()))
ORDER BY next_at NULLS FIRST
LIMIT %(limit)s
FOR UPDATE OF schedule SKIP LOCKED

-- Retire the schedules that no living worker of their app knows, once workers without them have lived for a while: the
-- code that had them is gone. Until then nobody fires them either, since a worker fires only what it knows. An app
-- that is down keeps its schedules: what they miss meanwhile is made up for.
UPDATE reflex.schedule
SET retired_at = coalesce(%(now)s::timestamptz, now())
WHERE retired_at IS NULL
  AND registered_at < coalesce(%(now)s::timestamptz, now()) - %(after)s::interval
  AND EXISTS (
      SELECT FROM reflex.worker
      WHERE worker.app_id = schedule.app_id
        AND worker.started_at < coalesce(%(now)s::timestamptz, now()) - %(after)s::interval
  )
  AND NOT EXISTS (
      SELECT FROM reflex.worker
      WHERE worker.app_id = schedule.app_id AND schedule.schedule_id = ANY(worker.schedule_ids)
  )
RETURNING name

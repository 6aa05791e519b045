-- Retire the triggers that no living worker of their app knows, once workers without them have lived for a while:
-- the code that had them is gone. Their routes go, so new events make no deliveries that nobody would claim; what
-- is pending stays and is shown. Without any worker nothing is retired: an app that is down keeps its triggers.
WITH unknown AS (
    SELECT trigger.trigger_id
    FROM reflex.trigger
    WHERE trigger.retired_at IS NULL
      AND EXISTS (
          SELECT FROM reflex.worker
          WHERE worker.app_id = trigger.app_id
            AND worker.started_at < coalesce(%(now)s::timestamptz, now()) - %(after)s::interval
      )
      AND NOT EXISTS (
          SELECT FROM reflex.worker
          WHERE worker.app_id = trigger.app_id AND trigger.trigger_id = ANY(worker.trigger_ids)
      )
      AND trigger.registered_at < coalesce(%(now)s::timestamptz, now()) - %(after)s::interval
),
retired AS (
    UPDATE reflex.trigger
    SET retired_at = coalesce(%(now)s::timestamptz, now())
    WHERE trigger_id IN (SELECT trigger_id FROM unknown)
    RETURNING trigger_id, name
),
unrouted AS (
    DELETE FROM reflex.route WHERE trigger_id IN (SELECT trigger_id FROM unknown)
)
SELECT trigger_id, name, pg_notify('reflex_registry', '')::text AS notified FROM retired

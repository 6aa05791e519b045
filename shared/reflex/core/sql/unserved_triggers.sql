-- Triggers with work that no live worker will take: nobody serves their app, or the app's code no longer has them.
SELECT trigger.name AS trigger, app.name AS app, trigger.retired_at IS NOT NULL AS retired,
       EXISTS (
           SELECT FROM reflex.worker
           WHERE worker.app_id = trigger.app_id
             AND worker.heartbeat_at > coalesce(%(now)s::timestamptz, now()) - %(lease_timeout)s::interval
       ) AS app_is_live
FROM reflex.trigger
JOIN reflex.app USING (app_id)
WHERE (
        EXISTS (SELECT FROM reflex.delivery WHERE delivery.trigger_id = trigger.trigger_id)
        OR EXISTS (SELECT FROM reflex.lane WHERE lane.trigger_id = trigger.trigger_id AND lane.ready)
        OR EXISTS (
            SELECT FROM reflex.scheduled
            WHERE scheduled.trigger_id = trigger.trigger_id
              AND scheduled.available_at <= coalesce(%(now)s::timestamptz, now())
        )
      )
  AND NOT EXISTS (
      SELECT FROM reflex.worker
      WHERE trigger.trigger_id = ANY(worker.trigger_ids)
        AND worker.heartbeat_at > coalesce(%(now)s::timestamptz, now()) - %(lease_timeout)s::interval
  )
ORDER BY app.name, trigger.name
LIMIT %(limit)s

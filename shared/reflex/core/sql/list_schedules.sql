-- Every schedule, retired ones too, with how many live workers know it. A worker whose heartbeat is late does not count.
SELECT schedule.schedule_id AS id, schedule.name, app.name AS app, schedule.description,
       schedule.spec->>'cron' AS cron, schedule.spec->>'tz' AS tz, (schedule.spec->>'every_s')::float8 AS every_s,
       schedule.missed, schedule.overlap, schedule.type, schedule.key, schedule.registered_at, schedule.retired_at,
       schedule.next_at, schedule.last_at, schedule.last_event_id, schedule.fired, schedule.skipped,
       (
           SELECT count(*)
           FROM reflex.worker
           WHERE schedule.schedule_id = ANY(worker.schedule_ids)
             AND worker.heartbeat_at > coalesce(%(now)s::timestamptz, now()) - %(lease_timeout)s::interval
       ) AS live_workers
FROM reflex.schedule
JOIN reflex.app USING (app_id)
ORDER BY app.name, schedule.name

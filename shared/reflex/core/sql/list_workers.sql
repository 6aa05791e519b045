-- The workers that have a row, with what they hold. One that died keeps its row until somebody reaps it: `live` says
-- whether its heartbeat is recent enough.
SELECT worker.worker_id AS id, app.name AS app, worker.host, worker.pid, worker.slots,
       coalesce(held.running, 0) AS running, worker.started_at, worker.heartbeat_at,
       extract(epoch FROM coalesce(%(now)s::timestamptz, now()) - worker.heartbeat_at)::float8 AS heartbeat_age_s,
       worker.heartbeat_at > coalesce(%(now)s::timestamptz, now()) - %(lease_timeout)s::interval AS live
FROM reflex.worker
JOIN reflex.app USING (app_id)
LEFT JOIN (SELECT worker_id, count(*) AS running FROM reflex.lease GROUP BY worker_id) AS held USING (worker_id)
ORDER BY app.name, worker.started_at, worker.worker_id
LIMIT %(limit)s

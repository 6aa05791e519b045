-- A new incarnation of a worker, with the triggers and the schedules it knows. Once more does no harm: a commit whose
-- answer was lost is repeated.
INSERT INTO reflex.worker (worker_id, app_id, trigger_ids, schedule_ids, host, pid, slots)
VALUES (%(worker_id)s, %(app_id)s, %(trigger_ids)s, %(schedule_ids)s, %(host)s, %(pid)s, %(slots)s)
ON CONFLICT (worker_id) DO UPDATE SET heartbeat_at = now()

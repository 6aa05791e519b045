-- A new incarnation of a worker, with the triggers it knows.
INSERT INTO reflex.worker (worker_id, app_id, trigger_ids, host, pid, slots)
VALUES (%(worker_id)s, %(app_id)s, %(trigger_ids)s, %(host)s, %(pid)s, %(slots)s)

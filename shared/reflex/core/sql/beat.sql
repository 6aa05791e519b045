-- Say that a worker lives. No row back means that it was declared dead: it must stop its runs and start anew.
UPDATE reflex.worker
SET heartbeat_at = clock_timestamp()
WHERE worker_id = %(worker_id)s
RETURNING worker_id

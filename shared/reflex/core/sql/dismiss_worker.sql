-- A worker that stopped in good order. Leases it could not release are found by the reaper at once.
DELETE FROM reflex.worker WHERE worker_id = %(worker_id)s

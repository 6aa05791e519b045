-- The transactions that have begun to append and have not ended, this one excepted: each holds this lock from before it
-- draws its number until what it wrote can be seen. Prepared transactions are among them.
SELECT coalesce(array_agg(DISTINCT virtualtransaction), '{}') AS transactions
FROM pg_locks
WHERE locktype = 'relation'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relation = 'reflex.appended'::regclass
  AND mode = 'RowExclusiveLock'
  AND pid IS DISTINCT FROM pg_backend_pid()

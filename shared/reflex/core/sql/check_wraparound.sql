-- How far the oldest row of this database, and of the server, is from the point at which PostgreSQL takes no more writes.
SELECT datname::text AS database, greatest(age(datfrozenxid), mxid_age(datminmxid)) AS age,
       current_setting('autovacuum_freeze_max_age')::bigint AS freeze_at
FROM pg_database
ORDER BY age DESC
LIMIT 1

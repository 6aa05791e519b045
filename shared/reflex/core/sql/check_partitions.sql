-- Whether this role may make and drop partitions of events and runs, which only the owner of the tables may.
SELECT bool_and(pg_has_role(relowner, 'USAGE')) AS is_owner, clock_timestamp() AS now
FROM pg_class
WHERE relnamespace = 'reflex'::regnamespace AND relname IN ('event', 'run')

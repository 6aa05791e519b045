-- Who keeps vacuum from removing rows that are gone, the oldest first: open transactions, those prepared for a second
-- phase, slots of replication, and standbys with hot_standby_feedback. `age` is in transactions. A role without pg_monitor
-- sees nothing of others' sessions but that they are there, and what holds them is left out.
SELECT *
FROM (
    SELECT CASE WHEN backend_type = 'walsender' THEN 'standby' ELSE 'transaction' END AS kind,
           pid::text AS name, usename::text AS account, application_name AS program, state,
           xact_start AS since,
           extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s,
           greatest(age(backend_xmin), age(backend_xid)) AS age
    FROM pg_stat_activity
    WHERE pid <> pg_backend_pid()
      -- Vacuum itself holds nothing back, and a parallel worker what its leader does.
      AND backend_type NOT IN ('autovacuum worker', 'parallel worker')
      AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
      AND (datname = current_database() OR datname IS NULL)
    UNION ALL
    SELECT 'prepared', gid, owner::text, NULL, NULL, prepared,
           extract(epoch FROM clock_timestamp() - prepared)::float8, age(transaction)
    FROM pg_prepared_xacts
    WHERE database = current_database()
    UNION ALL
    SELECT CASE WHEN active THEN 'slot in use' ELSE 'slot' END, slot_name::text, NULL, slot_type, NULL, NULL, NULL,
           greatest(age(xmin), age(catalog_xmin))
    FROM pg_replication_slots
    WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL
) AS holders
ORDER BY age DESC NULLS LAST
LIMIT 20

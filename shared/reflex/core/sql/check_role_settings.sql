-- What ALTER ROLE and ALTER DATABASE have set for sessions of this database, of whatever role: null stands for all.
SELECT split_part(entry, '=', 1) AS name, substr(entry, strpos(entry, '=') + 1) AS value,
       pg_database.datname AS database, pg_roles.rolname AS role
FROM pg_db_role_setting
LEFT JOIN pg_database ON pg_database.oid = setdatabase
LEFT JOIN pg_roles ON pg_roles.oid = setrole
CROSS JOIN LATERAL unnest(setconfig) AS entry
WHERE split_part(entry, '=', 1) = ANY(%(names)s::text[])
  AND (setdatabase = 0 OR pg_database.datname = current_database())
ORDER BY 1, 3, 4

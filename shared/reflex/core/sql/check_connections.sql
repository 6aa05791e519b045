-- How many connections there are, by what they call themselves, with the limits they count against. The name and account
-- of a connection can be seen by everybody, of what kind it is only by some. Ours is not counted: it ends soon.
WITH used AS (
    SELECT coalesce(nullif(application_name, ''), 'no name') AS name, datname = current_database() AS here,
           usename = current_user AS ours
    FROM pg_stat_activity
    WHERE pid <> pg_backend_pid()
      AND (backend_type = 'client backend' OR (backend_type IS NULL AND datid IS NOT NULL))
)
SELECT coalesce((
           SELECT jsonb_object_agg(name, number)
           FROM (SELECT name, count(*) AS number FROM used GROUP BY name) AS counted
       ), '{}') AS names,
       (SELECT count(*) FROM used) AS used,
       (SELECT count(*) FROM used WHERE here) AS used_here,
       (SELECT count(*) FROM used WHERE ours) AS used_by_us,
       current_setting('max_connections')::int AS most,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS most_here,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS most_of_us

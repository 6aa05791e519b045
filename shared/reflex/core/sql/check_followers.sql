-- How many connections follow the log, by their names: these can be seen by everybody.
SELECT count(*) AS followers
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = ANY(%(names)s::text[])

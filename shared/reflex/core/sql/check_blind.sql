-- How many sessions of other roles there are of which this role may see nothing.
SELECT count(*) AS hidden
FROM pg_stat_activity
WHERE backend_type IS NULL AND datname = current_database()

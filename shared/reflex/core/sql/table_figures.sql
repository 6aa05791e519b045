-- What gateways show to Prometheus of tables and models, a row for each series: see figures. Rows are the planner's
-- estimate, the density at the last vacuum times the size now; dead tuples are as the statistics have them.
SELECT 'reflex_table_rows' AS name, ARRAY[relname::text] AS labels,
       CASE
           WHEN reltuples > 0 AND relpages > 0
           THEN reltuples / relpages * (pg_relation_size(oid) / current_setting('block_size')::int)
           ELSE 0
       END::float8 AS value
FROM pg_class
WHERE relnamespace = 'reflex'::regnamespace AND relname = ANY(%(tables)s::text[])
UNION ALL
SELECT 'reflex_table_dead_tuples', ARRAY[relname::text], pg_stat_get_dead_tuples(oid)
FROM pg_class
WHERE relnamespace = 'reflex'::regnamespace AND relname = ANY(%(tables)s::text[])
UNION ALL
SELECT 'reflex_unrouted_events', '{}', count(*) FROM (SELECT FROM reflex.unrouted LIMIT %(limit)s) AS few
UNION ALL
SELECT 'reflex_log_unplaced_appends', '{}', count(*) FROM (SELECT FROM reflex.appended LIMIT %(limit)s) AS few
UNION ALL
SELECT 'reflex_log_placing_lag_seconds', '{}', coalesce((
    SELECT greatest(0, extract(epoch FROM coalesce(%(now)s::timestamptz, now()) - event.created_at))
    FROM (SELECT event_ids[1] AS event_id FROM reflex.appended ORDER BY append_id LIMIT 1) AS oldest
    JOIN reflex.event USING (event_id)
), 0)
UNION ALL
SELECT 'reflex_partitions_ahead_seconds', ARRAY[parent.relname::text],
       max(('x' || left(replace(high.id, '-', ''), 12))::bit(48)::bigint / 1000.0)
           - extract(epoch FROM coalesce(%(now)s::timestamptz, now()))
FROM pg_class AS parent
JOIN pg_inherits ON inhparent = parent.oid
JOIN pg_class AS part ON part.oid = inhrelid
CROSS JOIN LATERAL (
    SELECT substring(pg_get_expr(part.relpartbound, part.oid) FROM 'TO \(''([0-9a-f-]{36})''\)') AS id
) AS high
WHERE parent.relnamespace = 'reflex'::regnamespace AND parent.relname IN ('event', 'run')
GROUP BY parent.relname
UNION ALL
SELECT 'reflex_circuit_open', ARRAY[model],
       (open_until IS NOT NULL AND open_until > coalesce(%(now)s::timestamptz, now()))::int
FROM reflex.circuit

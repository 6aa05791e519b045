-- The partitions of events and runs, those of each table in the order of time; the one that takes what no other takes is
-- the last. Bounds are ids of events; NULL has none. Rows are the planner's estimate.
SELECT parent.relname AS "table", part.relname AS name,
       substring(bound.text FROM 'FROM \(''([0-9a-f-]{36})''\)')::uuid AS low,
       substring(bound.text FROM 'TO \(''([0-9a-f-]{36})''\)')::uuid AS high,
       greatest(0, part.reltuples)::bigint AS rows,
       coalesce(pg_total_relation_size(part.oid), 0) AS bytes
FROM pg_class AS parent
JOIN pg_inherits ON inhparent = parent.oid
JOIN pg_class AS part ON part.oid = inhrelid
CROSS JOIN LATERAL (SELECT pg_get_expr(part.relpartbound, part.oid) AS text) AS bound
WHERE parent.relnamespace = 'reflex'::regnamespace AND parent.relname IN ('event', 'run')
ORDER BY parent.relname, high NULLS LAST

-- What vacuum has to do in the tables of Reflex, and when it last did: dead rows by the statistics, and whether autovacuum
-- was turned off for a table. All tables, since any of them holds back the wraparound; the busiest first.
SELECT pg_class.relname::text AS name, n_dead_tup AS dead, n_live_tup AS live,
       greatest(last_autovacuum, last_vacuum) AS vacuumed_at,
       coalesce(
           (SELECT option_value FROM pg_options_to_table(pg_class.reloptions) WHERE option_name = 'autovacuum_enabled'),
           'true'
       )::bool AS enabled
FROM pg_stat_user_tables
JOIN pg_class ON pg_class.oid = relid
WHERE schemaname = 'reflex'
ORDER BY n_dead_tup DESC, pg_class.relname

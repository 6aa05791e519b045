-- Who follows this server, and whether commits wait for it. Null: this role may not see it.
SELECT application_name AS name, state, sync_state
FROM pg_stat_replication

-- Lock the states that runs have changed, if they are what these runs began with; the others do not come back.
-- One that is locked is being changed by somebody else. This change comes too late then, so nobody waits for it.
-- One that is not there yet is made, with version 0; who makes the same one at this moment is waited for.
-- Who freezes between this and the commit is cut off by the server: runs of these keys would not get on.
WITH given AS (
    SELECT *
    FROM unnest(%(trigger_id)s::int[], %(key)s::text[], %(version)s::bigint[]) AS t (trigger_id, key, version)
),
locked AS MATERIALIZED (
    SELECT state.trigger_id, state.key
    FROM given
    JOIN reflex.state ON state.trigger_id = given.trigger_id
                     AND state.key = given.key
                     AND state.version = given.version
    FOR UPDATE OF state SKIP LOCKED
),
made AS (
    INSERT INTO reflex.state (trigger_id, key, version)
    SELECT trigger_id, key, 0
    FROM given
    WHERE version = 0
    ORDER BY trigger_id, key COLLATE "C"
    ON CONFLICT (trigger_id, key) DO NOTHING
    RETURNING trigger_id, key
)
SELECT trigger_id, key FROM locked
UNION ALL
SELECT trigger_id, key FROM made
UNION ALL
SELECT NULL, set_config('idle_in_transaction_session_timeout', %(standstill)s, true)

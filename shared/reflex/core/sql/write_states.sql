-- Write the states that are held since hold_states, for runs whose settlement holds; what was made for others goes.
-- NULL leaves what is there.
WITH given AS (
    SELECT *
    FROM unnest(%(trigger_id)s::int[], %(key)s::text[], %(holds)s::bool[], %(schema_version)s::int[],
                %(data)s::text[], %(messages)s::text[], %(usage)s::text[])
         AS t (trigger_id, key, holds, schema_version, data, messages, usage)
),
undone AS (
    DELETE FROM reflex.state
    USING given
    WHERE NOT given.holds AND state.trigger_id = given.trigger_id AND state.key = given.key AND state.version = 0
)
UPDATE reflex.state
SET version        = nextval('reflex.state_version'),
    schema_version = coalesce(given.schema_version, state.schema_version),
    data           = coalesce(given.data::json, state.data),
    messages       = coalesce(given.messages::json, state.messages),
    usage          = coalesce(given.usage::json, state.usage),
    updated_at     = now()
FROM given
WHERE given.holds AND state.trigger_id = given.trigger_id AND state.key = given.key

-- What a trigger remembers of the key of an event: the key, NULL if the event has none, and the row, if there is one.
SELECT keyed.key, state.version, state.schema_version, state.data::text, state.messages::text, state.usage::text
FROM (
    SELECT reflex.lane_key(string_to_array(%(key_path)s, '.'), key, source, payload::text) AS key
    FROM reflex.event
    WHERE event_id = %(event_id)s
) AS keyed
LEFT JOIN reflex.state ON state.trigger_id = %(trigger_id)s AND state.key = keyed.key

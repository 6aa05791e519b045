-- What a trigger remembers of a key, for people.
SELECT version, schema_version, data::text, messages::text, usage::text, updated_at
FROM reflex.state
WHERE trigger_id = %(trigger_id)s AND key = %(key)s

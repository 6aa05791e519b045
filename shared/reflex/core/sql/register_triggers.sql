-- Add or update the triggers of an app; a retired one comes back. Returns name and id of each.
INSERT INTO reflex.trigger (app_id, name, max_attempts, definition, key_path, when_dead)
SELECT %(app_id)s, given.name, given.max_attempts, given.definition::jsonb, string_to_array(given.key_path, '.'),
       given.when_dead
FROM unnest(%(name)s::text[], %(max_attempts)s::int[], %(definition)s::text[], %(key_path)s::text[],
            %(when_dead)s::text[]) AS given (name, max_attempts, definition, key_path, when_dead)
ON CONFLICT (app_id, name) DO UPDATE
SET max_attempts  = excluded.max_attempts,
    definition    = excluded.definition,
    key_path      = excluded.key_path,
    when_dead     = excluded.when_dead,
    registered_at = now(),
    retired_at    = NULL
RETURNING name, trigger_id

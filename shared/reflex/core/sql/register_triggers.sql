-- Add or update the triggers of an app; a retired one comes back. Returns name and id of each.
INSERT INTO reflex.trigger (app_id, name, max_attempts, definition)
SELECT %(app_id)s, given.name, given.max_attempts, given.definition::jsonb
FROM unnest(%(name)s::text[], %(max_attempts)s::int[], %(definition)s::text[])
     AS given (name, max_attempts, definition)
ON CONFLICT (app_id, name) DO UPDATE
SET max_attempts  = excluded.max_attempts,
    definition    = excluded.definition,
    registered_at = now(),
    retired_at    = NULL
RETURNING name, trigger_id

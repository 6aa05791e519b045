-- Add or update webhooks, by their names. What is as it was is not written. Returns those that are new or were changed,
-- each with the app that had it before, if that was another one.
WITH given AS (
    SELECT name, definition::jsonb AS definition
    FROM unnest(%(name)s::text[], %(definition)s::text[]) AS t (name, definition)
),
before AS (
    SELECT webhook.name, app.name AS app
    FROM reflex.webhook
    JOIN given USING (name)
    JOIN reflex.app USING (app_id)
    WHERE app_id <> %(app_id)s
),
written AS (
    INSERT INTO reflex.webhook (name, app_id, definition)
    SELECT name, %(app_id)s, definition
    FROM given
    ORDER BY name
    ON CONFLICT (name) DO UPDATE
    SET app_id        = excluded.app_id,
        definition    = excluded.definition,
        registered_at = now()
    WHERE webhook.app_id <> excluded.app_id OR webhook.definition <> excluded.definition
    RETURNING name
)
SELECT name, before.app
FROM written
LEFT JOIN before USING (name)

-- Add an app, or find it, and put its event types and their schemas in place.
-- The no-op update takes the app's row lock, so two workers that start at once register one after the other.
WITH registered AS (
    INSERT INTO reflex.app (name)
    VALUES (%(app)s)
    ON CONFLICT (name) DO UPDATE SET registered_at = now()
    RETURNING app_id
),
typed AS (
    INSERT INTO reflex.event_type (type, app_id, schema)
    SELECT given.type, registered.app_id, given.schema::jsonb
    FROM unnest(%(type)s::text[], %(schema)s::text[]) AS given (type, schema)
    CROSS JOIN registered
    ON CONFLICT (type, app_id) DO UPDATE SET schema = excluded.schema, registered_at = now()
    WHERE event_type.schema <> excluded.schema
)
SELECT app_id FROM registered

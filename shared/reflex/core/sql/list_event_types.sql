-- The registered types, once for each app that registered them.
SELECT event_type.type, app.name AS app, event_type.schema::text AS schema, event_type.registered_at
FROM reflex.event_type
JOIN reflex.app USING (app_id)
ORDER BY event_type.type, app.name

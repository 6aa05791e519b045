-- What the triggers of an app wait for, the first registered first: a pattern with each type of the app that it matches,
-- and the schema of its payload. Nothing before the app has registered since %(since)s.
SELECT route.pattern, event_type.type, event_type.schema::text AS schema
FROM reflex.app
JOIN reflex.trigger USING (app_id)
JOIN reflex.route USING (trigger_id)
LEFT JOIN reflex.event_type
    ON event_type.app_id = app.app_id AND event_type.type >= route.low AND event_type.type <= route.high
WHERE app.name = %(app)s AND app.registered_at >= %(since)s AND trigger.retired_at IS NULL
ORDER BY trigger.trigger_id, route.pattern, event_type.type

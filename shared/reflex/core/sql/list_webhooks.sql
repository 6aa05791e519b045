-- The webhooks, by name.
SELECT webhook.name, app.name AS app, definition, webhook.registered_at
FROM reflex.webhook
JOIN reflex.app USING (app_id)
ORDER BY webhook.name

-- Every trigger by its name, and those of one name together.
SELECT trigger.trigger_id, trigger.name, app.name AS app, trigger.retired_at IS NOT NULL AS is_retired
FROM reflex.trigger
JOIN reflex.app USING (app_id)
ORDER BY trigger.name, app.name

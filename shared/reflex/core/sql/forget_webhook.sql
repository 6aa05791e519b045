-- Remove a webhook.
DELETE FROM reflex.webhook
WHERE name = %(name)s

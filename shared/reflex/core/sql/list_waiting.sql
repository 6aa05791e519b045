-- Deliveries that wait, those that have waited longest first: for what, and when they are due at the latest.
SELECT waiting.trigger_id, waiting.event_id, trigger.name AS trigger, app.name AS app, event.type, event.key,
       waiting.kind, waiting.reason, waiting.since, coalesce(scheduled.available_at, lane.available_at) AS until
FROM (SELECT * FROM reflex.waiting ORDER BY since, trigger_id, event_id LIMIT %(limit)s) AS waiting
JOIN reflex.trigger USING (trigger_id)
JOIN reflex.app USING (app_id)
JOIN reflex.event USING (event_id)
LEFT JOIN reflex.scheduled USING (trigger_id, event_id)
LEFT JOIN reflex.lane ON lane.trigger_id = waiting.trigger_id AND lane.key = waiting.lane_key
ORDER BY waiting.since, waiting.trigger_id, waiting.event_id

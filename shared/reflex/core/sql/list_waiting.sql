-- Deliveries that wait, those that have waited longest first: for what, and when they are due at the latest.
SELECT waiting.trigger_id, waiting.event_id, trigger.name AS trigger, app.name AS app, event.type, event.key,
       waiting.kind, waiting.reason, waiting.since, coalesce(scheduled.available_at, lane.available_at) AS until
FROM (
    SELECT *
    FROM reflex.waiting
    WHERE (%(seen_low)s::text[] IS NULL AND %(seen_sources)s::text[] IS NULL) OR EXISTS (
        SELECT FROM reflex.event
        WHERE event.event_id = waiting.event_id
          AND (%(seen_low)s::text[] IS NULL OR EXISTS (
              SELECT FROM unnest(%(seen_low)s::text[], %(seen_high)s::text[]) AS seen (low, high)
              WHERE event.type >= seen.low AND event.type <= seen.high
          ))
          AND (%(seen_sources)s::text[] IS NULL OR event.source = ANY(%(seen_sources)s::text[]))
    )
    ORDER BY since, trigger_id, event_id
    LIMIT %(limit)s
) AS waiting
JOIN reflex.trigger USING (trigger_id)
JOIN reflex.app USING (app_id)
JOIN reflex.event USING (event_id)
LEFT JOIN reflex.scheduled USING (trigger_id, event_id)
LEFT JOIN reflex.lane ON lane.trigger_id = waiting.trigger_id AND lane.key = waiting.lane_key
ORDER BY waiting.since, waiting.trigger_id, waiting.event_id

-- Dead letters, the latest first. Filters that are NULL do not count; the statement is never prepared.
SELECT dead_letter.trigger_id, dead_letter.event_id, trigger.name AS trigger, app.name AS app,
       event.type, event.source, event.key, event."time", event.correlation_id,
       CASE WHEN %(with_payload)s THEN event.payload::text END AS payload,
       dead_letter.reason, left(dead_letter.error, %(error_limit)s) AS error, dead_letter.attempt,
       dead_letter.died_at
FROM reflex.dead_letter
JOIN reflex.trigger USING (trigger_id)
JOIN reflex.app USING (app_id)
JOIN reflex.event USING (event_id)
WHERE (%(trigger)s::text IS NULL OR trigger.name = %(trigger)s)
  AND (%(app)s::text IS NULL OR app.name = %(app)s)
  AND (%(reason)s::text IS NULL OR dead_letter.reason = %(reason)s)
  AND (%(key)s::text IS NULL OR event.key = %(key)s)
  AND (%(type_low)s::text IS NULL OR (event.type >= %(type_low)s AND event.type <= %(type_high)s))
  AND (%(since)s::timestamptz IS NULL OR dead_letter.died_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR dead_letter.died_at < %(until)s)
  AND (%(after_died_at)s::timestamptz IS NULL
       OR (dead_letter.died_at, dead_letter.trigger_id, dead_letter.event_id)
          < (%(after_died_at)s, %(after_trigger_id)s::int, %(after_event_id)s::uuid))
  AND (%(trigger_id)s::int IS NULL
       OR (dead_letter.trigger_id = %(trigger_id)s AND dead_letter.event_id = %(event_id)s))
  AND (%(seen_low)s::text[] IS NULL OR EXISTS (
      SELECT FROM unnest(%(seen_low)s::text[], %(seen_high)s::text[]) AS seen (low, high)
      WHERE event.type >= seen.low AND event.type <= seen.high
  ))
  AND (%(seen_sources)s::text[] IS NULL OR event.source = ANY(%(seen_sources)s::text[]))
ORDER BY dead_letter.died_at DESC, dead_letter.trigger_id DESC, dead_letter.event_id DESC
LIMIT %(limit)s

-- The keys of up to %(limit)s dead letters that a filter means, for a retry or a purge in portions.
-- Each portion begins where the last one ended: begun anew, it would walk over all the rows that were just deleted.
SELECT dead_letter.trigger_id, dead_letter.event_id
FROM reflex.dead_letter
JOIN reflex.trigger USING (trigger_id)
JOIN reflex.app USING (app_id)
JOIN reflex.event USING (event_id)
WHERE (dead_letter.trigger_id, dead_letter.event_id) > (%(after_trigger_id)s::int, %(after_event_id)s::uuid)
  AND (%(trigger)s::text IS NULL OR trigger.name = %(trigger)s)
  AND (%(app)s::text IS NULL OR app.name = %(app)s)
  AND (%(reason)s::text IS NULL OR dead_letter.reason = %(reason)s)
  AND (%(key)s::text IS NULL OR event.key = %(key)s)
  AND (%(type_low)s::text IS NULL OR (event.type >= %(type_low)s AND event.type <= %(type_high)s))
  AND (%(since)s::timestamptz IS NULL OR dead_letter.died_at >= %(since)s)
  AND dead_letter.died_at < %(until)s
  AND (%(seen_low)s::text[] IS NULL OR EXISTS (
      SELECT FROM unnest(%(seen_low)s::text[], %(seen_high)s::text[]) AS seen (low, high)
      WHERE event.type >= seen.low AND event.type <= seen.high
  ))
  AND (%(seen_sources)s::text[] IS NULL OR event.source = ANY(%(seen_sources)s::text[]))
ORDER BY dead_letter.trigger_id, dead_letter.event_id
LIMIT %(limit)s

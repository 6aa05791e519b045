-- Calls of tools that must not be repeated and of which no end is recorded, the latest event first.
-- At work is what belongs to a lease that is still there; of all others it is not known whether they did their work.
-- Their event may be gone if the delivery has ended all the same.
SELECT step.trigger_id, step.event_id, step.position, trigger.name AS trigger, app.name AS app,
       event.type, event.key, step.result::text AS document, step.created_at AS begun_at,
       lease.event_id IS NOT NULL AS at_work, waiting.kind IS NOT DISTINCT FROM 'effect' AS waits
FROM reflex.step
JOIN reflex.trigger USING (trigger_id)
JOIN reflex.app USING (app_id)
LEFT JOIN reflex.event ON event.event_id = step.event_id
LEFT JOIN reflex.lease ON lease.trigger_id = step.trigger_id AND lease.event_id = step.event_id
                      AND lease.lease_epoch = step.lease_epoch
LEFT JOIN reflex.waiting ON waiting.trigger_id = step.trigger_id AND waiting.event_id = step.event_id
WHERE step.kind = 'intent'
  AND (%(at_work)s::boolean IS NULL OR (lease.event_id IS NOT NULL) = %(at_work)s)
  AND (%(trigger)s::text IS NULL OR trigger.name = %(trigger)s)
  AND (%(after_event_id)s::uuid IS NULL
       OR (step.event_id, step.trigger_id, step.position)
          < (%(after_event_id)s, %(after_trigger_id)s::int, %(after_position)s::int))
  AND (%(seen_low)s::text[] IS NULL OR EXISTS (
      SELECT FROM unnest(%(seen_low)s::text[], %(seen_high)s::text[]) AS seen (low, high)
      WHERE event.type >= seen.low AND event.type <= seen.high
  ))
  AND (%(seen_sources)s::text[] IS NULL OR event.source = ANY(%(seen_sources)s::text[]))
ORDER BY step.event_id DESC, step.trigger_id DESC, step.position DESC
LIMIT %(limit)s

-- The deliveries that wait for a budget and that one of this scope and subject may concern; more of them do no harm, for
-- each looks for itself. A tree's are those of events that belong to it, whatever their trigger. A key is where the
-- trigger says that its events have theirs.
SELECT waiting.trigger_id, waiting.event_id
FROM reflex.waiting
JOIN reflex.event USING (event_id)
JOIN reflex.trigger USING (trigger_id)
WHERE waiting.kind = 'budget'
  AND CASE %(scope)s::text
          WHEN 'tree' THEN coalesce(event.correlation_id, event.event_id::text) = %(subject)s::text
          WHEN 'run' THEN waiting.trigger_id = %(trigger_id)s::int AND event.event_id::text = %(subject)s
          WHEN 'key' THEN waiting.trigger_id = %(trigger_id)s AND coalesce(reflex.lane_key(
              string_to_array(coalesce(trigger.definition ->> 'budgets_by', 'key'), '.'),
              event.key, event.source, event.payload::text
          ), '') = %(subject)s
          ELSE waiting.trigger_id = %(trigger_id)s
      END

-- Where a delivery is now, how its last run ended, and what an answer to its event needs to know. No row without such a
-- trigger or such an event; `place` is NULL if the delivery has ended, or never was.
SELECT place.name AS place, place.lane_key, place.asked_before,
       (
           SELECT outcome
           FROM reflex.run
           WHERE run.trigger_id = trigger.trigger_id AND run.event_id = event.event_id
           ORDER BY lease_epoch DESC
           LIMIT 1
       ) AS last_outcome,
       trigger.name AS trigger, event.type, event.source, event.key, event.time, event.correlation_id, event.depth,
       event.reply_to
FROM reflex.trigger
CROSS JOIN reflex.event
LEFT JOIN LATERAL (
    SELECT 'pending' AS name, NULL::text AS lane_key, false AS asked_before
    FROM reflex.delivery
    WHERE delivery.trigger_id = trigger.trigger_id AND delivery.event_id = event.event_id
    UNION ALL
    SELECT 'pending', NULL, false
    FROM reflex.scheduled
    WHERE scheduled.trigger_id = trigger.trigger_id AND scheduled.event_id = event.event_id
    UNION ALL
    SELECT 'pending', ordered.key, false
    FROM reflex.ordered
    WHERE ordered.trigger_id = trigger.trigger_id AND ordered.event_id = event.event_id
    UNION ALL
    SELECT 'running', lease.lane_key, cancellation.event_id IS NOT NULL
    FROM reflex.lease
    LEFT JOIN reflex.cancellation USING (trigger_id, event_id)
    WHERE lease.trigger_id = trigger.trigger_id AND lease.event_id = event.event_id
    UNION ALL
    SELECT 'dead', NULL, false
    FROM reflex.dead_letter
    WHERE dead_letter.trigger_id = trigger.trigger_id AND dead_letter.event_id = event.event_id
) AS place ON true
WHERE trigger.trigger_id = %(trigger_id)s AND event.event_id = %(event_id)s

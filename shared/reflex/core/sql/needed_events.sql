-- The events of a range of ids that somebody still needs, up to %(limit)s: a delivery is open or dead, a trigger gathers
-- them, or they have no place in the log yet. OFFSET 0 makes the planner look each trigger up.
SELECT event_id
FROM (
    SELECT unsettled.event_id
    FROM reflex.trigger
    CROSS JOIN LATERAL (
        SELECT event_id
        FROM reflex.delivery
        WHERE delivery.trigger_id = trigger.trigger_id AND event_id >= %(low)s AND event_id < %(high)s
        UNION ALL
        SELECT event_id
        FROM reflex.scheduled
        WHERE scheduled.trigger_id = trigger.trigger_id AND event_id >= %(low)s AND event_id < %(high)s
        UNION ALL
        SELECT event_id
        FROM reflex.lease
        WHERE lease.trigger_id = trigger.trigger_id AND event_id >= %(low)s AND event_id < %(high)s
        UNION ALL
        SELECT event_id
        FROM reflex.dead_letter
        WHERE dead_letter.trigger_id = trigger.trigger_id AND event_id >= %(low)s AND event_id < %(high)s
        OFFSET 0
    ) AS unsettled
    UNION ALL
    SELECT event_id FROM reflex.ordered WHERE event_id >= %(low)s AND event_id < %(high)s
    UNION ALL
    SELECT event_id FROM reflex.gathered WHERE event_id >= %(low)s AND event_id < %(high)s
    UNION ALL
    SELECT event_id
    FROM reflex.appended
    CROSS JOIN unnest(event_ids) AS event_id
    WHERE event_id >= %(low)s AND event_id < %(high)s
) AS needed
LIMIT %(limit)s

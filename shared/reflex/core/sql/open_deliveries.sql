-- Whether a delivery of an event is still pending, put off or running. One statement, so one snapshot: a delivery
-- that moves meanwhile is seen in one of these places. They are keyed by trigger first; each trigger is looked up.
SELECT EXISTS (
    SELECT
    FROM reflex.trigger
    WHERE EXISTS (
            SELECT FROM reflex.delivery
            WHERE delivery.trigger_id = trigger.trigger_id AND delivery.event_id = %(event_id)s
        )
       OR EXISTS (
            SELECT FROM reflex.scheduled
            WHERE scheduled.trigger_id = trigger.trigger_id AND scheduled.event_id = %(event_id)s
        )
       OR EXISTS (
            SELECT FROM reflex.ordered
            WHERE ordered.trigger_id = trigger.trigger_id AND ordered.event_id = %(event_id)s
        )
       OR EXISTS (
            SELECT FROM reflex.lease
            WHERE lease.trigger_id = trigger.trigger_id AND lease.event_id = %(event_id)s
        )
) AS open

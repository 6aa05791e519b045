-- Whether a delivery is being worked on, and whether it may be (a dead letter may, if it is retried).
SELECT EXISTS (
           SELECT FROM reflex.lease WHERE trigger_id = %(trigger_id)s::int AND event_id = %(event_id)s::uuid
       ) AS running,
       EXISTS (
           SELECT FROM reflex.delivery WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s
           UNION ALL SELECT FROM reflex.scheduled WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s
           UNION ALL SELECT FROM reflex.ordered WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s
           UNION ALL SELECT FROM reflex.dead_letter WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s
       ) AS ahead

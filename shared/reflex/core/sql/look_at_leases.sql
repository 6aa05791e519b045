-- Of deliveries that are about to be gathered, those whose lease is still there: they keep it until the end of the
-- transaction, so what is settled of them then holds. With when their events were accepted, whether a run to come has the
-- event already, and which.
WITH held AS MATERIALIZED (
    SELECT lease.trigger_id, lease.event_id
    FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[], %(lease_epoch)s::int[])
         AS given (trigger_id, event_id, lease_epoch)
    JOIN reflex.lease ON lease.trigger_id = given.trigger_id AND lease.event_id = given.event_id
        AND lease.lease_epoch = given.lease_epoch
    FOR UPDATE OF lease
)
SELECT held.trigger_id, held.event_id, event.created_at, gathered.event_id IS NOT NULL AS is_gathered, gathered.batch_id
FROM held
JOIN reflex.event ON event.event_id = held.event_id
LEFT JOIN reflex.gathered ON gathered.event_id = held.event_id AND gathered.trigger_id = held.trigger_id

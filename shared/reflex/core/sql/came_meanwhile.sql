-- Which of the deliveries behind a run came, or became due, after the run had first begun, its retries included; after
-- it had died, that is begun anew. Of those in the lane the last %(limit)s are looked at, from the newest on: a backlog
-- stands in front of them. %(mates)s are leases already. Only looks.
WITH mine AS (
    SELECT trigger_id, lane_key, position, event_id,
           coalesce((
               SELECT min(run.started_at)
               FROM reflex.run
               WHERE run.trigger_id = lease.trigger_id AND run.event_id = lease.event_id
                 AND run.lease_epoch > coalesce((
                     SELECT max(died.lease_epoch)
                     FROM reflex.run AS died
                     WHERE died.trigger_id = lease.trigger_id AND died.event_id = lease.event_id
                       AND died.outcome = 'dead'
                 ), 0)
           ), started_at) AS began_at
    FROM reflex.lease
    WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s AND lease_epoch = %(lease_epoch)s
)
SELECT behind.event_id
FROM mine
CROSS JOIN LATERAL (
    (
        SELECT ordered.event_id
        FROM reflex.ordered
        WHERE ordered.trigger_id = mine.trigger_id AND ordered.key = mine.lane_key
          AND (ordered.position, ordered.event_id) > (mine.position, mine.event_id)
        ORDER BY ordered.position DESC, ordered.event_id DESC
        LIMIT %(limit)s
    )
    UNION ALL
    SELECT event_id FROM unnest(%(mates)s::uuid[]) AS t (event_id)
) AS behind
WHERE (
    SELECT greatest(event.created_at, event.available_at) FROM reflex.event WHERE event.event_id = behind.event_id
) > mine.began_at

-- Give a run what has come into its lane behind it: the deliveries become leases of the same worker in the same lane,
-- as if they had been claimed with the lane. Who loses them gives them back to their places, like all of a lane.
-- The lane was locked by the statement before, so this one's snapshot shows all of it, and the run's lease, if it still
-- is there, stays. Only deliveries that have never begun are taken: one that waits, or was tried before, has a run.
-- %(mates)s are those that were claimed with the lane, and are leases already; the first %(limit)s others are taken.
-- %(only)s: those that an earlier attempt took, in its order. What is not here any more, since somebody has cancelled
-- it, comes back all the same, with a lease_epoch of 0: the run has seen it.
-- %(meanwhile)s: only what came, or became due, after the run had first begun; after it had died, that is begun anew.
-- The lane's head stays where it is, which is nowhere behind the first that is left.
-- A row without an event if there is nothing. No row: the lease is lost.
WITH mine AS (
    SELECT trigger_id, lane_key, position, event_id, worker_id,
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
),
taken AS (
    DELETE FROM reflex.ordered
    WHERE ctid = ANY(ARRAY(
        SELECT ordered.ctid
        FROM mine
        JOIN reflex.ordered ON ordered.trigger_id = mine.trigger_id AND ordered.key = mine.lane_key
             AND (ordered.position, ordered.event_id) > (mine.position, mine.event_id)
        JOIN reflex.event ON event.event_id = ordered.event_id
        WHERE (%(only)s::uuid[] IS NULL OR ordered.event_id = ANY(%(only)s::uuid[]))
          AND (NOT %(meanwhile)s OR greatest(event.created_at, event.available_at) > mine.began_at)
          AND NOT EXISTS (
              SELECT FROM reflex.run WHERE run.trigger_id = ordered.trigger_id AND run.event_id = ordered.event_id
          )
        ORDER BY ordered.position, ordered.event_id
        LIMIT %(limit)s
    ))
    RETURNING trigger_id, key, position, event_id, attempt, lease_epoch
),
moved AS (
    UPDATE reflex.lane
    SET pending = lane.pending - batch.size,
        running = lane.running + batch.size
    FROM (SELECT trigger_id, key, count(*) AS size FROM taken GROUP BY trigger_id, key) AS batch
    WHERE lane.trigger_id = batch.trigger_id AND lane.key = batch.key
),
leased AS (
    INSERT INTO reflex.lease (trigger_id, event_id, attempt, lease_epoch, worker_id, lane_key, position)
    SELECT taken.trigger_id, taken.event_id, attempt + 1, lease_epoch + 1, mine.worker_id, key, taken.position
    FROM taken, mine
    RETURNING event_id, attempt, lease_epoch, lane_key, position
),
here AS (
    SELECT * FROM leased
    UNION ALL
    SELECT lease.event_id, lease.attempt, lease.lease_epoch, lease.lane_key, lease.position
    FROM mine
    JOIN reflex.lease ON lease.trigger_id = mine.trigger_id AND lease.event_id = ANY(%(mates)s::uuid[])
         AND lease.worker_id = mine.worker_id AND lease.lane_key = mine.lane_key
         AND (lease.position, lease.event_id) > (mine.position, mine.event_id)
    JOIN reflex.event ON event.event_id = lease.event_id
    WHERE (%(only)s::uuid[] IS NULL OR lease.event_id = ANY(%(only)s::uuid[]))
      AND (NOT %(meanwhile)s OR greatest(event.created_at, event.available_at) > mine.began_at)
      AND NOT EXISTS (
          SELECT FROM reflex.run WHERE run.trigger_id = lease.trigger_id AND run.event_id = lease.event_id
      )
),
found AS (
    SELECT * FROM here
    UNION ALL
    SELECT seen.event_id, 0, 0, NULL, NULL
    FROM unnest(%(only)s::uuid[]) AS seen (event_id)
    WHERE seen.event_id NOT IN (SELECT event_id FROM here)
)
SELECT mine.trigger_id, line.*
FROM mine
LEFT JOIN (
    SELECT found.event_id, found.attempt, found.lease_epoch,
           event.type, event.source, event.key, event.time, event.payload, event.correlation_id,
           event.causation_id, event.depth, event.trace_context, event.reply_to, found.lane_key, found.position
    FROM found
    JOIN reflex.event USING (event_id)
) AS line ON true
ORDER BY array_position(%(only)s::uuid[], line.event_id), line.position, line.event_id

-- Give a run what has come into its lane behind it: the deliveries become leases of the same worker in the same lane,
-- as if they had been claimed with the lane. Who loses them gives them back to their places, like all of a lane.
-- The lane was locked by the statement before, so this one's snapshot shows all of it, and the run's lease, if it still
-- is there, stays. Only deliveries that have never begun are taken: one that waits, or was tried before, has a run.
-- %(mates)s are those that were claimed with the lane, and are leases already; the first %(limit)s others are taken.
-- %(only)s: these, in this order, and no others. What is not here any more, since somebody has cancelled it, comes back
-- all the same, with a lease_epoch of 0: an earlier attempt has seen it.
-- The first of a lane are found in the order of its index, and each is asked whether it has a run: a join would read all
-- of a lane of thousands, or all runs, for the few that are taken.
-- The lane's head stays where it is, which is nowhere behind the first that is left.
-- A row without an event if there is nothing. No row: the lease is lost.
WITH mine AS (
    SELECT trigger_id, lane_key, position, event_id, worker_id
    FROM reflex.lease
    WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s AND lease_epoch = %(lease_epoch)s
),
seen AS (
    SELECT event_id, turn
    FROM unnest(%(only)s::uuid[]) WITH ORDINALITY AS t (event_id, turn)
),
behind AS (
    SELECT first.ctid
    FROM mine
    CROSS JOIN LATERAL (
        SELECT ordered.ctid
        FROM reflex.ordered
        WHERE ordered.trigger_id = mine.trigger_id AND ordered.key = mine.lane_key
          AND (ordered.position, ordered.event_id) > (mine.position, mine.event_id)
          AND (
              SELECT run.lease_epoch
              FROM reflex.run
              WHERE run.trigger_id = ordered.trigger_id AND run.event_id = ordered.event_id
              LIMIT 1
          ) IS NULL
        ORDER BY ordered.position, ordered.event_id
        LIMIT %(limit)s
    ) AS first
    WHERE %(only)s::uuid[] IS NULL
    UNION ALL
    SELECT ordered.ctid
    FROM mine
    CROSS JOIN seen
    JOIN reflex.ordered ON ordered.event_id = seen.event_id AND ordered.trigger_id = mine.trigger_id
         AND ordered.key = mine.lane_key
         AND (ordered.position, ordered.event_id) > (mine.position, mine.event_id)
    WHERE NOT EXISTS (
        SELECT FROM reflex.run WHERE run.trigger_id = mine.trigger_id AND run.event_id = seen.event_id
    )
),
taken AS (
    DELETE FROM reflex.ordered
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM behind))
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
    WHERE (%(only)s::uuid[] IS NULL OR lease.event_id IN (SELECT event_id FROM seen))
      AND NOT EXISTS (
          SELECT FROM reflex.run WHERE run.trigger_id = lease.trigger_id AND run.event_id = lease.event_id
      )
),
found AS (
    SELECT * FROM here
    UNION ALL
    SELECT event_id, 0, 0, NULL, NULL
    FROM seen
    WHERE event_id NOT IN (SELECT event_id FROM here)
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
LEFT JOIN seen ON seen.event_id = line.event_id
ORDER BY seen.turn, line.position, line.event_id

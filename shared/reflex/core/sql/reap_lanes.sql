-- Free the lanes that workers held which are gone. An attempt counts for the first delivery of a lane only: those
-- behind it had not begun, and leave no run.
-- As in reap_workers, lanes whose first delivery was lost before, or has one attempt left, go on in turns.
-- Without %(event_id)s: the lanes whose first delivery has attempts left. With it: the one lane whose first delivery
-- this is, and in which it dies.
-- Never waits: a lane may be locked by the very process that was declared dead, frozen in the middle of a settling.
-- As in claim_lanes, a lane that changed since the snapshot is dropped; the next call finds it.
WITH orphan AS (
    SELECT DISTINCT ON (trigger_id, lane_key) trigger_id, lane_key, event_id, attempt
    FROM reflex.lease
    WHERE lane_key IS NOT NULL
      AND NOT EXISTS (SELECT FROM reflex.worker WHERE worker.worker_id = lease.worker_id)
    ORDER BY trigger_id, lane_key, position, event_id
),
seen AS MATERIALIZED (
    SELECT trigger_id, key
    FROM reflex.lane
    WHERE ctid = ANY(ARRAY(
        SELECT lane.ctid
        FROM orphan
        JOIN reflex.trigger USING (trigger_id)
        JOIN reflex.lane ON lane.trigger_id = orphan.trigger_id AND lane.key = orphan.lane_key
        WHERE CASE
                  WHEN %(event_id)s::uuid IS NULL THEN orphan.attempt < trigger.max_attempts
                  ELSE orphan.trigger_id = %(trigger_id)s::int AND orphan.event_id = %(event_id)s
                       AND orphan.attempt >= trigger.max_attempts
              END
        FOR UPDATE OF lane SKIP LOCKED
    ))
),
freed AS (
    DELETE FROM reflex.lease
    USING seen
    WHERE lease.trigger_id = seen.trigger_id AND lease.lane_key = seen.key
    RETURNING lease.*
),
judged AS (
    SELECT freed.*, begun.event_id IS NOT NULL AS begun, begun.event_id IS NOT NULL AND %(event_id)s::uuid IS NOT NULL AS dead,
           trigger.when_dead = 'hold' AS holds,
           freed.attempt + 1 >= trigger.max_attempts OR (freed.attempt > 1 AND EXISTS (
               SELECT
               FROM reflex.run
               WHERE run.trigger_id = freed.trigger_id AND run.event_id = freed.event_id AND run.outcome = 'lost'
           )) AS suspect
    FROM freed
    JOIN reflex.trigger USING (trigger_id)
    LEFT JOIN orphan AS begun ON begun.trigger_id = freed.trigger_id AND begun.event_id = freed.event_id
),
apart AS (
    SELECT trigger_id, event_id,
           (row_number() OVER (ORDER BY random()) - 1)
           * least(greatest(attempt - 1, 1) ^ 2 * interval '1 second', %(longest)s::interval / count(*) OVER ()) AS later_by
    FROM judged
    WHERE begun AND NOT dead AND suspect
),
recorded AS (
    INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, error)
    SELECT trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, 'lost',
           'the worker stopped sending heartbeats'
    FROM judged
    WHERE begun
),
buried AS (
    INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason, error, lane_key, position,
                                    holds)
    SELECT trigger_id, event_id, attempt, lease_epoch, 'worker_lost', 'the worker stopped sending heartbeats',
           lane_key, position, holds
    FROM judged
    WHERE dead
),
returned AS (
    INSERT INTO reflex.ordered (trigger_id, key, position, event_id, attempt, lease_epoch)
    SELECT trigger_id, lane_key, position, event_id, CASE WHEN begun THEN attempt ELSE attempt - 1 END, lease_epoch
    FROM judged
    WHERE NOT dead
),
settled AS (
    UPDATE reflex.lane
    SET pending = lane.pending + batch.returned,
        running = lane.running - batch.size,
        held    = lane.held + batch.holding,
        head    = CASE WHEN lane.pending > 0 THEN least(lane.head, batch.first) ELSE coalesce(batch.first, lane.head) END,
        available_at = CASE WHEN batch.later_by > interval '0' THEN now() + batch.later_by ELSE lane.available_at END
    FROM (
        SELECT trigger_id, lane_key, count(*) AS size, count(*) FILTER (WHERE NOT dead) AS returned,
               count(*) FILTER (WHERE dead AND holds) AS holding, min(position) FILTER (WHERE NOT dead) AS first,
               max(later_by) AS later_by
        FROM judged
        LEFT JOIN apart USING (trigger_id, event_id)
        GROUP BY trigger_id, lane_key
    ) AS batch
    WHERE lane.trigger_id = batch.trigger_id AND lane.key = batch.lane_key
)
SELECT trigger_id, event_id, worker_id, attempt, dead, pg_notify('reflex', '')::text AS notified
FROM judged
WHERE begun

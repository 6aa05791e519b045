-- End one delivery that is no dead letter, wherever it is, and with %(running)s also one that runs: its lease is taken
-- away, and whatever its run still does changes nothing. It leaves a cancelled run behind.
-- The lane %(lane_key)s was locked by the statement before, so this one's snapshot shows all of it. A delivery that has
-- come into a lane since, or into another one, is not found. If it was the first of a lane that waits, the lane waits no
-- more; its head is where it was, which is nowhere behind the first that is left. No row back: it is not here (any more).
WITH pending AS (
    DELETE FROM reflex.delivery
    WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s
    RETURNING trigger_id, event_id, attempt, lease_epoch
),
scheduled AS (
    DELETE FROM reflex.scheduled
    WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s
    RETURNING trigger_id, event_id, attempt, lease_epoch
),
ordered AS (
    DELETE FROM reflex.ordered
    WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s AND key = %(lane_key)s::text
    RETURNING trigger_id, event_id, attempt, lease_epoch, key, position
),
leased AS (
    DELETE FROM reflex.lease
    WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s AND %(running)s
      AND lane_key IS NOT DISTINCT FROM %(lane_key)s::text
    RETURNING trigger_id, event_id, attempt, lease_epoch, lane_key, worker_id, started_at
),
left_lane AS (
    UPDATE reflex.lane
    SET pending      = lane.pending - 1,
        available_at = CASE WHEN lane.head < ordered.position THEN lane.available_at END
    FROM ordered
    WHERE lane.trigger_id = ordered.trigger_id AND lane.key = ordered.key
    RETURNING ready
),
freed_lane AS (
    UPDATE reflex.lane
    SET running = lane.running - 1
    FROM leased
    WHERE lane.trigger_id = leased.trigger_id AND lane.key = leased.lane_key
    RETURNING ready
),
gone AS (
    SELECT trigger_id, event_id, attempt, lease_epoch + 1 AS lease_epoch,
           '00000000-0000-0000-0000-000000000000'::uuid AS worker_id, now() AS started_at
    FROM (
        SELECT * FROM pending UNION ALL SELECT * FROM scheduled
        UNION ALL SELECT trigger_id, event_id, attempt, lease_epoch FROM ordered
    ) AS idle
    UNION ALL
    SELECT trigger_id, event_id, attempt, lease_epoch, worker_id, started_at
    FROM leased
),
over AS (
    DELETE FROM reflex.waiting
    USING gone
    WHERE waiting.trigger_id = gone.trigger_id AND waiting.event_id = gone.event_id
),
answered AS (
    DELETE FROM reflex.cancellation
    USING gone
    WHERE cancellation.trigger_id = gone.trigger_id AND cancellation.event_id = gone.event_id
)
INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, error)
SELECT trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, 'cancelled', %(error)s
FROM gone
RETURNING (
    SELECT pg_notify('reflex', '')
    FROM (
        SELECT 1 FROM (SELECT ready FROM left_lane UNION ALL SELECT ready FROM freed_lane) AS lanes WHERE ready LIMIT 1
    ) AS any_ready
)::text AS notified

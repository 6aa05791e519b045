-- Remove workers whose heartbeat stopped and free what they held. Also frees leases whose worker has no row at
-- all: a claim that was under way while its worker was declared dead commits after this statement's snapshot, and
-- the next call finds it. So it finds a lease that somebody has locked, who settles it or stands still.
-- Leases that belong to a lane are left to reap_lanes, which comes next and finds them without a worker.
-- An attempt that was lost counts: a delivery that kills its workers ends as a dead letter.
WITH gone AS (
    DELETE FROM reflex.worker
    WHERE worker_id IN (
        SELECT worker_id
        FROM reflex.worker
        WHERE heartbeat_at < coalesce(%(now)s::timestamptz, now()) - %(lease_timeout)s::interval
        FOR UPDATE SKIP LOCKED
    )
    RETURNING worker_id
),
freed AS (
    DELETE FROM reflex.lease
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM reflex.lease
        WHERE lane_key IS NULL
          AND (worker_id IN (SELECT worker_id FROM gone)
               OR NOT EXISTS (SELECT FROM reflex.worker WHERE worker.worker_id = lease.worker_id))
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING *
),
judged AS (
    SELECT freed.*, freed.attempt >= trigger.max_attempts AS dead, trigger.name AS trigger
    FROM freed
    JOIN reflex.trigger USING (trigger_id)
),
recorded AS (
    INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, error)
    SELECT trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, 'lost',
           'the worker stopped sending heartbeats'
    FROM judged
),
buried AS (
    INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason, error)
    SELECT trigger_id, event_id, attempt, lease_epoch, 'worker_lost', 'the worker stopped sending heartbeats'
    FROM judged
    WHERE dead
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, attempt, lease_epoch)
    SELECT trigger_id, event_id, attempt, lease_epoch
    FROM judged
    WHERE NOT dead
)
SELECT judged.trigger_id, judged.event_id, judged.worker_id, judged.attempt, judged.dead, judged.trigger,
       event.type, event.key, event.correlation_id, event.depth, event.reply_to,
       pg_notify('reflex', '')::text || set_config('idle_in_transaction_session_timeout', '5s', true) AS notified
FROM judged
JOIN reflex.event USING (event_id)

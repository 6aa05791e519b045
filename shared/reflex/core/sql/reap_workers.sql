-- Remove workers whose heartbeat stopped and free what they held. Also frees leases whose worker has no row at
-- all: a claim that was under way while its worker was declared dead commits after this statement's snapshot, and
-- the next call finds it. So it finds a lease that somebody has locked, who settles it or stands still.
-- Leases that belong to a lane are left to reap_lanes, which comes next and finds them without a worker.
-- An attempt that was lost counts: a delivery that kills its workers ends as a dead letter. What else these workers held
-- must not end with it. So what was lost before, or has one attempt left, comes back in turns, a second or more apart:
-- one kills its worker, and the others run without it. The first turn is now.
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
    SELECT freed.*, freed.attempt >= trigger.max_attempts AS dead, trigger.name AS trigger,
           freed.attempt + 1 >= trigger.max_attempts OR (freed.attempt > 1 AND EXISTS (
               SELECT
               FROM reflex.run
               WHERE run.trigger_id = freed.trigger_id AND run.event_id = freed.event_id AND run.outcome = 'lost'
           )) AS suspect
    FROM freed
    JOIN reflex.trigger USING (trigger_id)
),
coming_back AS (
    SELECT trigger_id, event_id, attempt, lease_epoch,
           -- Further apart each time, for what takes longer to kill; and yet all of them within a minute.
           (row_number() OVER turns - 1)
           * least(greatest(attempt - 1, 1) ^ 2 * interval '1 second', %(longest)s::interval / count(*) OVER (PARTITION BY suspect))
           * suspect::int AS later_by
    FROM judged
    WHERE NOT dead
    WINDOW turns AS (PARTITION BY suspect ORDER BY random())
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
    FROM coming_back
    WHERE later_by = interval '0'
),
put_off AS (
    INSERT INTO reflex.scheduled (trigger_id, event_id, attempt, lease_epoch, available_at)
    SELECT trigger_id, event_id, attempt, lease_epoch, coalesce(%(now)s::timestamptz, now()) + later_by
    FROM coming_back
    WHERE later_by > interval '0'
)
SELECT judged.trigger_id, judged.event_id, judged.worker_id, judged.attempt, judged.dead, judged.trigger,
       event.type, event.key, event.correlation_id, event.depth, event.reply_to,
       pg_notify('reflex', '')::text || set_config('idle_in_transaction_session_timeout', '5s', true) AS notified
FROM judged
JOIN reflex.event USING (event_id)

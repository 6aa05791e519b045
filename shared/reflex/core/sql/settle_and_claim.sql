-- Settle what finished and claim up to %(limit)s pending deliveries, in one round trip.
-- Every settling is fenced by lease_epoch: a lease that was reaped (and perhaps claimed again) is not found, and
-- its outcome changes nothing. Such outcomes come back as rows with event_id and no lease_epoch.
-- Claiming moves rows: DELETE from delivery, INSERT into lease. The subselect is turned into an array of ctids
-- so that the planner cannot flip to a scan of the whole table; a pending row is never updated, so the ctid of
-- a locked row holds. LIMIT stops the lateral scan, so no more rows are locked than are taken.
-- A worker that was declared dead has no row in reflex.worker and claims nothing.
-- What follows a settlement in its transaction may never come: the worker is frozen, or its path is dead. Then the server
-- ends the transaction soon, or it would hold leases that are neither settled again nor reaped meanwhile.
WITH outcome AS (
    SELECT t.*, (SELECT set_config('idle_in_transaction_session_timeout', '5s', true)) AS standstill
    FROM unnest(
        %(trigger_id)s::int[], %(event_id)s::uuid[], %(lease_epoch)s::int[], %(outcome)s::text[],
        %(error)s::text[], %(output)s::text[], %(usage)s::text[], %(retry_in)s::interval[],
        %(reason)s::text[], %(trace_id)s::text[]
    ) AS t (trigger_id, event_id, lease_epoch, outcome, error, output, usage, retry_in, reason, trace_id)
),
ended AS (
    DELETE FROM reflex.lease
    USING outcome
    WHERE lease.trigger_id = outcome.trigger_id
      AND lease.event_id = outcome.event_id
      AND lease.lease_epoch = outcome.lease_epoch
    RETURNING lease.*, outcome.outcome, outcome.error, outcome.output, outcome.usage, outcome.retry_in,
              outcome.reason, outcome.trace_id
),
recorded AS (
    INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, error,
                            output, usage, trace_id)
    SELECT trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, error, output::jsonb,
           usage::jsonb, trace_id
    FROM ended
),
retried AS (
    INSERT INTO reflex.scheduled (trigger_id, event_id, attempt, lease_epoch, available_at)
    SELECT trigger_id, event_id, CASE outcome WHEN 'waiting' THEN attempt - 1 ELSE attempt END, lease_epoch,
           now() + retry_in
    FROM ended
    WHERE outcome IN ('retry', 'waiting')
),
released AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, attempt, lease_epoch)
    SELECT trigger_id, event_id, attempt - 1, lease_epoch
    FROM ended
    WHERE outcome = 'released'
    RETURNING trigger_id
),
buried AS (
    INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason, error)
    SELECT trigger_id, event_id, attempt, lease_epoch, coalesce(reason, 'failed'), error
    FROM ended
    WHERE outcome = 'dead'
),
taken AS (
    DELETE FROM reflex.delivery
    WHERE ctid = ANY(ARRAY(
        SELECT due.ctid
        FROM unnest(%(claim_trigger_id)s::int[]) WITH ORDINALITY AS asked (trigger_id, turn)
        CROSS JOIN LATERAL (
            SELECT pending.ctid
            FROM reflex.delivery AS pending
            WHERE pending.trigger_id = asked.trigger_id
            ORDER BY pending.event_id
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE EXISTS (SELECT FROM reflex.worker WHERE worker_id = %(worker_id)s)
        LIMIT %(limit)s
    ))
    RETURNING trigger_id, event_id, attempt, lease_epoch
),
leased AS (
    INSERT INTO reflex.lease (trigger_id, event_id, attempt, lease_epoch, worker_id)
    SELECT trigger_id, event_id, attempt + 1, lease_epoch + 1, %(worker_id)s
    FROM taken
    RETURNING trigger_id, event_id, attempt, lease_epoch
)
SELECT leased.trigger_id, leased.event_id, leased.attempt, leased.lease_epoch,
       event.type, event.source, event.key, event.time, event.payload, event.correlation_id,
       event.causation_id, event.depth, event.trace_context, event.reply_to,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM released LIMIT 1) AS any_released)::text AS notified
FROM leased
JOIN reflex.event USING (event_id)
UNION ALL
SELECT outcome.trigger_id, outcome.event_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM released LIMIT 1) AS any_released)::text
FROM outcome
WHERE NOT EXISTS (
    SELECT FROM ended
    WHERE ended.trigger_id = outcome.trigger_id
      AND ended.event_id = outcome.event_id
      AND ended.lease_epoch = outcome.lease_epoch
)

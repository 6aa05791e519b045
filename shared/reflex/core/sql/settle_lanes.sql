-- Settle deliveries of lanes. As in settle_and_claim, each is fenced by lease_epoch; those that come too late come back.
-- Lanes are locked in the order of trigger and key, waiting for appends to them. Claiming is another statement, in
-- another transaction: it holds lanes in the order of their age, and appends would wait for it in a circle.
-- A retry, or one that waits, goes back to its place and makes its lane wait. What was claimed behind a delivery that did not end well is
-- given back with it: it had not begun, so it uses up no attempt and leaves no run.
-- %(wake)s tells other workers of lanes that are ready again, for a worker that will not claim them itself.
-- If more statements follow before the commit, the server does not wait for them for ever: appends wait meanwhile.
-- A lane is free when its last lease is gone. An empty one is left to the sweep: an append may be waiting for it.
WITH outcome AS (
    SELECT *
    FROM unnest(
        %(trigger_id)s::int[], %(event_id)s::uuid[], %(lease_epoch)s::int[], %(outcome)s::text[],
        %(error)s::text[], %(output)s::text[], %(usage)s::text[], %(retry_in)s::interval[],
        %(reason)s::text[], %(trace_id)s::text[], %(lane_key)s::text[]
    ) AS t (trigger_id, event_id, lease_epoch, outcome, error, output, usage, retry_in, reason, trace_id, lane_key)
),
locked AS MATERIALIZED (
    SELECT lane.trigger_id, lane.key
    FROM (SELECT DISTINCT trigger_id, lane_key FROM outcome) AS touched
    JOIN reflex.lane ON lane.trigger_id = touched.trigger_id AND lane.key = touched.lane_key
    ORDER BY lane.trigger_id, lane.key
    FOR UPDATE OF lane
),
ended AS (
    DELETE FROM reflex.lease
    USING outcome
    JOIN locked ON locked.trigger_id = outcome.trigger_id AND locked.key = outcome.lane_key
    WHERE lease.trigger_id = outcome.trigger_id
      AND lease.event_id = outcome.event_id
      AND lease.lease_epoch = outcome.lease_epoch
      AND lease.lane_key = outcome.lane_key
    RETURNING lease.*, outcome.outcome, outcome.error, outcome.output, outcome.usage, outcome.retry_in,
              outcome.reason, outcome.trace_id
),
judged AS (
    SELECT ended.*, ended.outcome IN ('retry', 'released', 'waiting') AS goes_back,
           ended.outcome = 'dead' AND trigger.when_dead = 'hold' AS holds
    FROM ended
    JOIN reflex.trigger USING (trigger_id)
),
recorded AS (
    INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, error,
                            output, usage, trace_id)
    SELECT trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome, error, output::jsonb,
           usage::jsonb, trace_id
    FROM judged
    WHERE outcome <> 'released' OR reason IS DISTINCT FROM 'not_begun'
),
returned AS (
    INSERT INTO reflex.ordered (trigger_id, key, position, event_id, attempt, lease_epoch)
    SELECT trigger_id, lane_key, position, event_id, CASE WHEN outcome IN ('released', 'waiting') THEN attempt - 1 ELSE attempt END,
           lease_epoch
    FROM judged
    WHERE goes_back
),
buried AS (
    INSERT INTO reflex.dead_letter (trigger_id, event_id, attempt, lease_epoch, reason, error, lane_key, position,
                                    holds)
    SELECT trigger_id, event_id, attempt, lease_epoch, coalesce(reason, 'failed'), error, lane_key, position, holds
    FROM judged
    WHERE outcome = 'dead'
),
settled AS (
    UPDATE reflex.lane
    SET pending      = lane.pending + batch.returned,
        running      = lane.running - batch.size,
        held         = lane.held + batch.holding,
        head         = CASE WHEN lane.pending > 0 THEN least(lane.head, batch.first)
                            ELSE coalesce(batch.first, lane.head) END,
        available_at = CASE WHEN batch.retry_in IS NULL THEN lane.available_at ELSE now() + batch.retry_in END
    FROM (
        SELECT trigger_id, lane_key, count(*) AS size, count(*) FILTER (WHERE goes_back) AS returned,
               count(*) FILTER (WHERE holds) AS holding, min(position) FILTER (WHERE goes_back) AS first,
               max(retry_in) FILTER (WHERE outcome IN ('retry', 'waiting')) AS retry_in
        FROM judged
        GROUP BY trigger_id, lane_key
    ) AS batch
    WHERE lane.trigger_id = batch.trigger_id AND lane.key = batch.lane_key
    RETURNING lane.ready
)
SELECT outcome.trigger_id, outcome.event_id, NULL AS notified
FROM outcome
WHERE NOT EXISTS (
    SELECT FROM ended
    WHERE ended.trigger_id = outcome.trigger_id
      AND ended.event_id = outcome.event_id
      AND ended.lease_epoch = outcome.lease_epoch
)
UNION ALL
SELECT NULL, NULL, pg_notify('reflex', '')::text
FROM (SELECT 1 FROM settled WHERE ready AND %(wake)s LIMIT 1) AS any_ready
UNION ALL
SELECT NULL, NULL, set_config('idle_in_transaction_session_timeout', %(standstill)s, true)

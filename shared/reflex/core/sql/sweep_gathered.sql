-- Clear away what stateful filters and gathering triggers need no more: what is older than they look back, and batches
-- whose delivery has ended without handing them over. If somebody cancelled it, its events have ended with it. Else code
-- has run it that knows of no batch, before or after this one did: its other events get deliveries again, in which
-- whatever code there is does with them what it does. Only batches that are overdue are looked at; the rest are waited for.
-- OFFSET 0 keeps the planner from hashing the whole of a table for an EXISTS.
WITH left_over AS MATERIALIZED (
    SELECT batch.trigger_id, batch.event_id,
           (
               SELECT outcome
               FROM reflex.run
               WHERE run.trigger_id = batch.trigger_id AND run.event_id = batch.event_id
               ORDER BY lease_epoch DESC
               LIMIT 1
           ) AS outcome
    FROM reflex.batch
    WHERE due_at < now() - interval '1 minute'
      AND NOT EXISTS (
          SELECT
          FROM (
              SELECT trigger_id, event_id FROM reflex.scheduled
              UNION ALL SELECT trigger_id, event_id FROM reflex.delivery
              UNION ALL SELECT trigger_id, event_id FROM reflex.lease
              UNION ALL SELECT trigger_id, event_id FROM reflex.ordered
              UNION ALL SELECT trigger_id, event_id FROM reflex.dead_letter
          ) AS unsettled
          WHERE unsettled.trigger_id = batch.trigger_id AND unsettled.event_id = batch.event_id
          OFFSET 0
      )
    ORDER BY due_at
    LIMIT %(limit)s
    FOR UPDATE OF batch SKIP LOCKED
),
over AS (
    DELETE FROM reflex.batch
    USING left_over
    WHERE batch.trigger_id = left_over.trigger_id AND batch.event_id = left_over.event_id
),
freed AS (
    DELETE FROM reflex.gathered
    USING left_over
    WHERE gathered.trigger_id = left_over.trigger_id AND gathered.batch_id = left_over.event_id
    RETURNING gathered.trigger_id, gathered.event_id, gathered.expires_at, left_over.event_id AS batch_id, outcome
),
again AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, lease_epoch)
    SELECT trigger_id, event_id,
           (SELECT max(lease_epoch) FROM reflex.run WHERE run.trigger_id = freed.trigger_id AND run.event_id = freed.event_id)
    FROM freed
    WHERE outcome IN ('succeeded', 'skipped') AND event_id <> batch_id AND expires_at IS NULL
      AND NOT EXISTS (
          SELECT
          FROM (
              SELECT trigger_id, event_id FROM reflex.scheduled
              UNION ALL SELECT trigger_id, event_id FROM reflex.lease
              UNION ALL SELECT trigger_id, event_id FROM reflex.dead_letter
          ) AS unsettled
          WHERE unsettled.trigger_id = freed.trigger_id AND unsettled.event_id = freed.event_id
          OFFSET 0
      )
    ON CONFLICT (trigger_id, event_id) DO NOTHING
    RETURNING trigger_id
),
windows AS (
    DELETE FROM reflex.gathered
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM reflex.gathered WHERE expires_at < now() AND batch_id IS NULL ORDER BY expires_at
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ))
    RETURNING event_id
),
forgotten AS (
    DELETE FROM reflex.passed
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM reflex.passed WHERE expires_at < now() ORDER BY expires_at
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ))
    RETURNING event_id
)
SELECT greatest((SELECT count(*) FROM left_over), (SELECT count(*) FROM windows), (SELECT count(*) FROM forgotten)) AS most,
       (SELECT count(*) FROM again) AS delivered_again,
       (SELECT pg_notify('reflex', '') FROM (SELECT FROM again LIMIT 1) AS any_again)::text AS notified

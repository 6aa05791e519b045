-- Give dead letters a new set of attempts. lease_epoch goes on counting, so their earlier runs stay distinct.
-- One that has a lane goes back to its place there, before all that came later; if it held the lane, the lane goes on.
-- Rows are locked in the order of their keys: two retries of the same letters wait for each other instead of
-- deadlocking, and the second finds them gone. A dead letter is never updated, so the ctid of a locked row holds.
WITH chosen AS (
    DELETE FROM reflex.dead_letter
    WHERE ctid = ANY(ARRAY(
        SELECT dead_letter.ctid
        FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS asked (trigger_id, event_id)
        JOIN reflex.dead_letter USING (trigger_id, event_id)
        ORDER BY dead_letter.trigger_id, dead_letter.event_id
        FOR UPDATE OF dead_letter
    ))
    RETURNING trigger_id, event_id, lease_epoch, lane_key, position, holds
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, lease_epoch)
    SELECT trigger_id, event_id, lease_epoch
    FROM chosen
    WHERE lane_key IS NULL
),
lift AS (
    SELECT trigger_id, lane_key AS key, count(*) AS pending, count(*) FILTER (WHERE holds) AS held,
           min(position) AS head
    FROM chosen
    WHERE lane_key IS NOT NULL
    GROUP BY trigger_id, lane_key
),
laned AS (
    INSERT INTO reflex.lane (trigger_id, key, pending, head)
    SELECT trigger_id, key, pending, head
    FROM lift
    ORDER BY trigger_id, key
    ON CONFLICT (trigger_id, key) DO UPDATE
    SET pending = lane.pending + excluded.pending,
        held    = lane.held - (
            SELECT held FROM lift WHERE lift.trigger_id = excluded.trigger_id AND lift.key = excluded.key
        ),
        head    = CASE WHEN lane.pending = 0 THEN excluded.head ELSE least(lane.head, excluded.head) END
    RETURNING trigger_id, key
),
queued AS (
    INSERT INTO reflex.ordered (trigger_id, key, position, event_id, lease_epoch)
    SELECT chosen.trigger_id, chosen.lane_key, chosen.position, chosen.event_id, chosen.lease_epoch
    FROM laned
    JOIN chosen ON chosen.trigger_id = laned.trigger_id AND chosen.lane_key = laned.key
)
SELECT trigger_id, event_id,
       (SELECT pg_notify('reflex', '') FROM (SELECT 1 FROM chosen LIMIT 1) AS any_chosen)::text AS notified
FROM chosen

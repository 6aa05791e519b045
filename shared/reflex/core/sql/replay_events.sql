-- New deliveries of one trigger for events of the log, in their order, and a mark on each that it is a replay.
-- Called by who has the turn (`take_turn`) in the transaction in which they were found (`events_to_replay`): until it ends
-- nobody else makes a delivery of them, and none of them is removed.
-- What the runs of before journaled is forgotten; OFFSET 0 makes the planner look each event up.
-- In a lane they come last, as in an append: positions are drawn under the lanes' locks, which are taken in their order.
WITH again AS (
    SELECT event_id, lease_epoch, lane_key COLLATE "C" AS lane_key, place,
           CASE WHEN available_at > now() THEN available_at END AS due_at
    FROM unnest(%(event_id)s::uuid[], %(lease_epoch)s::int[], %(lane_key)s::text[], %(available_at)s::timestamptz[])
        WITH ORDINALITY AS t (event_id, lease_epoch, lane_key, available_at, place)
),
marked AS (
    INSERT INTO reflex.replayed (event_id, trigger_id, lease_epoch)
    SELECT event_id, %(trigger)s::int, lease_epoch
    FROM again
    ON CONFLICT (event_id, trigger_id) DO UPDATE SET replayed_at = excluded.replayed_at
),
forgotten AS (
    DELETE FROM reflex.step
    WHERE ctid = ANY(ARRAY(
        SELECT of_event.ctid
        FROM again
        CROSS JOIN LATERAL (
            SELECT ctid
            FROM reflex.step
            WHERE step.trigger_id = %(trigger)s AND step.event_id = again.event_id
            OFFSET 0
        ) AS of_event
    ))
),
pending AS (
    INSERT INTO reflex.delivery (trigger_id, event_id, lease_epoch)
    SELECT %(trigger)s, event_id, lease_epoch
    FROM again
    WHERE lane_key IS NULL AND due_at IS NULL
    ORDER BY place
    RETURNING trigger_id
),
later AS (
    INSERT INTO reflex.scheduled (trigger_id, event_id, lease_epoch, available_at, lane_key)
    SELECT %(trigger)s, event_id, lease_epoch, due_at, lane_key
    FROM again
    WHERE due_at IS NOT NULL
),
laned AS (
    INSERT INTO reflex.lane (trigger_id, key, pending, head)
    SELECT %(trigger)s, lane_key, count(*), nextval('reflex.lane_position')
    FROM again
    WHERE lane_key IS NOT NULL AND due_at IS NULL
    GROUP BY lane_key
    ORDER BY lane_key
    ON CONFLICT (trigger_id, key) DO UPDATE
    SET pending = lane.pending + excluded.pending,
        head    = CASE WHEN lane.pending = 0 THEN excluded.head ELSE lane.head END
    RETURNING key, ready
),
queued AS (
    INSERT INTO reflex.ordered (trigger_id, key, event_id, lease_epoch, position)
    SELECT %(trigger)s, key, event_id, lease_epoch, nextval('reflex.lane_position')
    FROM (
        SELECT key, event_id, lease_epoch
        FROM laned
        JOIN again ON lane_key = key
        WHERE due_at IS NULL
        ORDER BY place
    ) AS in_order
)
SELECT pg_notify('reflex', '')::text AS notified
FROM (SELECT FROM pending UNION ALL SELECT FROM laned WHERE ready LIMIT 1) AS woken

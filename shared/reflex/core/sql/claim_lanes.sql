-- Claim up to %(lanes)s ready lanes, those that have waited longest first, with up to about %(rows)s deliveries of them.
-- Never waits: lanes that somebody has locked are skipped. The oldest of those comes back as a row without an
-- event_id, if there are slots left, for the next claim to wait for.
-- A ctid from FOR UPDATE is that of the newest row. If the lane changed after this statement's snapshot was taken, the
-- snapshot does not see that row, and `seen` drops the lane: its deliveries may have changed as well (one was given
-- back, perhaps), and those of the snapshot would be claimed out of order.
-- Each lane gives one delivery; what is left of %(rows)s is divided among the lanes that have more.
WITH asked AS (
    SELECT trigger_id, turn
    FROM unnest(%(claim_trigger_id)s::int[]) WITH ORDINALITY AS t (trigger_id, turn)
),
free AS MATERIALIZED (
    SELECT oldest.ctid
    FROM asked
    CROSS JOIN LATERAL (
        SELECT lane.ctid
        FROM reflex.lane
        WHERE lane.trigger_id = asked.trigger_id AND lane.ready
        ORDER BY lane.head
        LIMIT %(lanes)s
        FOR UPDATE SKIP LOCKED
    ) AS oldest
    WHERE EXISTS (SELECT FROM reflex.worker WHERE worker_id = %(worker_id)s)
    LIMIT %(lanes)s
),
seen AS MATERIALIZED (
    SELECT trigger_id, key, pending
    FROM reflex.lane
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM free))
),
taken AS (
    DELETE FROM reflex.ordered
    WHERE ctid = ANY(ARRAY(
        SELECT first.ctid
        FROM seen
        CROSS JOIN LATERAL (
            SELECT ordered.ctid
            FROM reflex.ordered
            WHERE ordered.trigger_id = seen.trigger_id AND ordered.key = seen.key
            ORDER BY ordered.position, ordered.event_id
            LIMIT (
                SELECT 1 + greatest(0, %(rows)s - count(*)) / greatest(1, count(*) FILTER (WHERE pending > 1))
                FROM seen
            )
        ) AS first
    ))
    RETURNING trigger_id, key, position, event_id, attempt, lease_epoch
),
claimed AS (
    UPDATE reflex.lane
    SET pending = lane.pending - batch.size,
        running = batch.size,
        head    = coalesce((
            SELECT ordered.position
            FROM reflex.ordered
            WHERE ordered.trigger_id = batch.trigger_id AND ordered.key = batch.key
              AND (ordered.position, ordered.event_id) > (batch.position, batch.event_id)
            ORDER BY ordered.position, ordered.event_id
            LIMIT 1
        ), batch.position)
    FROM (
        SELECT DISTINCT ON (trigger_id, key) trigger_id, key, position, event_id,
               count(*) OVER (PARTITION BY trigger_id, key) AS size
        FROM taken
        ORDER BY trigger_id, key, position DESC, event_id DESC
    ) AS batch
    WHERE lane.trigger_id = batch.trigger_id AND lane.key = batch.key
    RETURNING lane.trigger_id
),
leased AS (
    INSERT INTO reflex.lease (trigger_id, event_id, attempt, lease_epoch, worker_id, lane_key, position)
    SELECT trigger_id, event_id, attempt + 1, lease_epoch + 1, %(worker_id)s, key, position
    FROM taken
    RETURNING trigger_id, event_id, attempt, lease_epoch, lane_key, position
),
skipped AS (
    SELECT oldest.trigger_id, oldest.key
    FROM asked
    CROSS JOIN LATERAL (
        SELECT lane.trigger_id, lane.key
        FROM reflex.lane
        WHERE lane.trigger_id = asked.trigger_id
          AND lane.ready
          AND NOT EXISTS (SELECT FROM seen WHERE seen.trigger_id = lane.trigger_id AND seen.key = lane.key)
        ORDER BY lane.head
        LIMIT 1
    ) AS oldest
    WHERE (SELECT count(*) FROM free) < %(lanes)s
    ORDER BY asked.turn
    LIMIT 1
)
(
    SELECT leased.trigger_id, leased.event_id, leased.attempt, leased.lease_epoch,
           event.type, event.source, event.key, event.time, event.payload, event.correlation_id,
           event.causation_id, event.depth, event.trace_context, event.reply_to, leased.lane_key, leased.position
    FROM leased
    JOIN reflex.event USING (event_id)
    ORDER BY leased.trigger_id, leased.lane_key, leased.position, leased.event_id
)
UNION ALL
SELECT trigger_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, key, NULL
FROM skipped

-- Append events to the log and make a delivery for every trigger whose route matches, in one statement.
-- Arrays run in parallel, one element an event; a shorter array counts as NULLs.
-- route_type/route_pattern list, for each distinct type of the batch, the patterns that could match it, so that
-- the cost of routing grows with matches and not with the number of triggers.
-- What is between <lanes> and </lanes> costs time even if no event has a lane, so apps without order leave it out. Then
-- nothing is stored of a batch that has an ordered route: `into_lanes` is the pattern of one, or NULL if there is none.
-- One snapshot finds it and routes: nothing gets past its lane. Where lanes are in, `true OR` drops the question.
-- Idempotency keys are inserted in key order: two gateways with the same keys wait instead of deadlocking.
-- Events of ordered triggers go to the lane of their key. Locks are taken in one order everywhere: idempotency keys,
-- then lanes, by trigger and key. Rows of `ordered` are made from what the locking of the lanes returns, so that a
-- position is only drawn under the lock of its lane and positions follow the order of the commits; `unplaced` asks how
-- many lanes there were for the same reason. Within one append the order is that of the ids, here as in the log.
-- A transaction that has lanes locked and stands still is ended by the server: others' appends wait for it.
-- What was stored gets its place in the order of the log later (`place_appended`): readers are told on the channel of
-- the workers, which readers listen to as well, or on their own if no worker has anything to do.
-- A reply is an answer, not a cause: that no trigger matches it is nothing to look into.
-- Returns how many were stored; fewer than given: some lost to an earlier event with their idempotency key.
-- The `b` placeholders send arrays in binary: escaping JSON for an array as text costs more than the rest of an append.
WITH matched AS (
    SELECT type, trigger_id, key_path, min(route.pattern) AS pattern
    FROM unnest(%(route_type)s::text[], %(route_pattern)s::text[]) AS candidate (type, pattern)
    JOIN reflex.route USING (pattern)
    GROUP BY type, trigger_id, key_path
),
into_lanes AS (
    SELECT pattern
    FROM matched
    WHERE key_path IS NOT NULL
    LIMIT 1
),
input AS (
    SELECT *
    FROM unnest(
        %(event_id)b::uuid[], %(type)b::text[], %(source)b::text[], %(key)b::text[], %(time)s::timestamptz[],
        %(payload)b::text[], %(idempotency_key)b::text[], %(correlation_id)b::text[], %(causation_id)b::uuid[],
        %(depth)s::smallint[], %(trace_context)b::text[], %(available_at)s::timestamptz[], %(delay)s::interval[],
        %(reply_to)b::text[]
    ) AS t (event_id, type, source, key, time, payload, idempotency_key, correlation_id, causation_id,
            depth, trace_context, available_at, delay, reply_to)
    WHERE
    -- <lanes>
        true OR
    -- </lanes>
        NOT EXISTS (SELECT FROM into_lanes)
),
first_use AS (
    INSERT INTO reflex.idempotency (source, key, event_id)
    SELECT source, idempotency_key, event_id
    FROM input
    WHERE idempotency_key IS NOT NULL
    ORDER BY source, idempotency_key
    ON CONFLICT (source, key) DO NOTHING
    RETURNING event_id
),
stored AS (
    INSERT INTO reflex.event (event_id, type, source, key, time, payload, correlation_id, causation_id, depth,
                              trace_context, available_at, reply_to)
    SELECT event_id, type, source, key, coalesce(time, now()), payload::jsonb, correlation_id, causation_id,
           coalesce(depth, 0), trace_context, coalesce(available_at, now() + delay), reply_to
    FROM input
    WHERE idempotency_key IS NULL OR event_id IN (SELECT event_id FROM first_use)
    RETURNING event_id, type, available_at, coalesce(available_at <= now(), true) AS due
),
-- <lanes>
keyed AS (
    SELECT trigger_id, event_id, stored.available_at, due,
           reflex.lane_key(key_path, input.key, source, payload) COLLATE "C" AS key
    FROM stored
    JOIN matched USING (type)
    JOIN input USING (event_id)
    WHERE key_path IS NOT NULL
),
laned AS (
    INSERT INTO reflex.lane (trigger_id, key, pending, head)
    SELECT trigger_id, key, count(*), nextval('reflex.lane_position')
    FROM keyed
    WHERE key IS NOT NULL AND due
    GROUP BY trigger_id, key
    ORDER BY trigger_id, key
    ON CONFLICT (trigger_id, key) DO UPDATE
    SET pending = lane.pending + excluded.pending,
        head    = CASE WHEN lane.pending = 0 THEN excluded.head ELSE lane.head END
    RETURNING trigger_id, key, ready
),
queued AS (
    INSERT INTO reflex.ordered (trigger_id, key, event_id, position)
    SELECT trigger_id, key, event_id, nextval('reflex.lane_position')
    FROM (
        SELECT trigger_id, key, event_id
        FROM laned
        JOIN keyed USING (trigger_id, key)
        WHERE due
        ORDER BY event_id
    ) AS in_order
),
-- </lanes>
ready AS (
    INSERT INTO reflex.delivery (trigger_id, event_id)
    SELECT trigger_id, event_id
    FROM stored
    JOIN matched USING (type)
    WHERE key_path IS NULL AND due
    -- <lanes>
    UNION ALL
    SELECT trigger_id, event_id
    FROM keyed
    WHERE key IS NULL AND due
    -- </lanes>
    RETURNING trigger_id
),
later AS (
    INSERT INTO reflex.scheduled (trigger_id, event_id, available_at, lane_key)
    SELECT trigger_id, event_id, available_at, NULL
    FROM stored
    JOIN matched USING (type)
    WHERE key_path IS NULL AND NOT due
    -- <lanes>
    UNION ALL
    SELECT trigger_id, event_id, available_at, key
    FROM keyed
    WHERE NOT due
    -- </lanes>
),
nobody AS (
    INSERT INTO reflex.unrouted (type, event_id)
    SELECT type, event_id
    FROM stored
    WHERE type NOT IN (SELECT type FROM matched) AND type <> 'reflex.reply'
),
unplaced AS (
    INSERT INTO reflex.appended (event_ids)
    SELECT ids[n:n + 99]
    FROM (SELECT array_agg(event_id ORDER BY event_id) AS ids FROM stored) AS whole
    CROSS JOIN LATERAL generate_series(1, cardinality(ids), 100) AS n
    -- <lanes>
    WHERE (SELECT count(*) FROM laned) >= 0
    -- </lanes>
    ORDER BY n
)
SELECT count(*) AS stored,
       (SELECT pattern FROM into_lanes) AS into_lanes,
       CASE WHEN count(*) > 0 THEN pg_notify(
           CASE WHEN EXISTS (SELECT FROM ready)
                -- <lanes>
                  OR EXISTS (SELECT FROM laned WHERE ready)
                -- </lanes>
                THEN 'reflex' ELSE 'reflex_log' END, '')
       END::text AS notified
       -- <lanes>
     , CASE WHEN EXISTS (SELECT FROM laned)
            THEN set_config('idle_in_transaction_session_timeout', '5s', true) END AS standstill
       -- </lanes>
FROM stored

-- Append events to the log and make a delivery for every trigger whose route matches, in one statement.
-- Arrays run in parallel, one element an event; a shorter array counts as NULLs.
-- route_type/route_pattern list, for each distinct type of the batch, the patterns that could match it, so that
-- the cost of routing grows with matches and not with the number of triggers.
-- Idempotency keys are inserted in key order: two gateways with the same keys wait instead of deadlocking.
-- What was stored gets its place in the order of the log later (`place_appended`): readers are told on the channel of
-- the workers, which readers listen to as well, or on their own if no worker has anything to do.
-- A reply is an answer, not a cause: that no trigger matches it is nothing to look into.
-- Returns how many were stored; fewer than given: some lost to an earlier event with their idempotency key.
-- The `b` placeholders send arrays in binary: escaping JSON for an array as text costs more than the rest of an append.
WITH input AS (
    SELECT *
    FROM unnest(
        %(event_id)b::uuid[], %(type)b::text[], %(source)b::text[], %(key)b::text[], %(time)s::timestamptz[],
        %(payload)b::text[], %(idempotency_key)b::text[], %(correlation_id)b::text[], %(causation_id)b::uuid[],
        %(depth)s::smallint[], %(trace_context)b::text[], %(available_at)s::timestamptz[], %(delay)s::interval[],
        %(reply_to)b::text[]
    ) AS t (event_id, type, source, key, time, payload, idempotency_key, correlation_id, causation_id,
            depth, trace_context, available_at, delay, reply_to)
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
    RETURNING event_id, type, available_at
),
matched AS (
    SELECT DISTINCT candidate.type, route.trigger_id
    FROM unnest(%(route_type)s::text[], %(route_pattern)s::text[]) AS candidate (type, pattern)
    JOIN reflex.route ON route.pattern = candidate.pattern
),
ready AS (
    INSERT INTO reflex.delivery (trigger_id, event_id)
    SELECT matched.trigger_id, stored.event_id
    FROM stored
    JOIN matched USING (type)
    WHERE stored.available_at IS NULL OR stored.available_at <= now()
    RETURNING trigger_id
),
later AS (
    INSERT INTO reflex.scheduled (trigger_id, event_id, available_at)
    SELECT matched.trigger_id, stored.event_id, stored.available_at
    FROM stored
    JOIN matched USING (type)
    WHERE stored.available_at > now()
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
    ORDER BY n
)
SELECT (SELECT count(*) FROM stored) AS stored,
       (SELECT pg_notify(CASE WHEN EXISTS (SELECT FROM ready) THEN 'reflex' ELSE 'reflex_log' END, '')
        FROM (SELECT 1 FROM stored LIMIT 1) AS any_stored)::text AS notified

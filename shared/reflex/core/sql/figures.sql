-- What gateways show of the database to Prometheus, a row for each series: its name, labels and value. It is asked every
-- few seconds, so nothing is counted beyond a limit, and what has no limit comes from the planner's estimates.
-- What is counted has an order for the sake of its index: without, the planner takes the whole table for a trigger that
-- has none of its rows, where another one has all of them. For the same reason events are looked up one by one.
-- Deliveries that wait have their rows among those that are put off, or in lanes, and do not count there.
-- Waiting counts as in queue_numbers: from when a delivery could first run, of the oldest few of each trigger.
WITH clock AS (SELECT coalesce(%(now)s::timestamptz, now()) AS now),
alive AS (
    SELECT worker_id, app_id, trigger_ids, extract(epoch FROM now - heartbeat_at) AS age_s,
           heartbeat_at > now - %(lease_timeout)s::interval AS beats
    FROM reflex.worker, clock
),
named AS (
    SELECT trigger_id, app.name AS app, trigger.name AS trigger, ARRAY[app.name, trigger.name] AS labels
    FROM reflex.trigger
    JOIN reflex.app USING (app_id)
),
counted AS (
    SELECT named.*,
           (SELECT count(*) FROM (SELECT FROM reflex.delivery AS t WHERE t.trigger_id = named.trigger_id ORDER BY event_id LIMIT %(limit)s) AS f)
           + (SELECT count(*) FROM (SELECT FROM reflex.ordered AS t WHERE t.trigger_id = named.trigger_id ORDER BY key, position LIMIT %(limit)s) AS f)
               AS pending,
           (SELECT count(*) FROM (SELECT FROM reflex.scheduled AS t WHERE t.trigger_id = named.trigger_id ORDER BY event_id LIMIT %(limit)s) AS f)
               AS scheduled,
           (SELECT count(*) FROM (SELECT FROM reflex.lease AS t WHERE t.trigger_id = named.trigger_id ORDER BY event_id LIMIT %(limit)s) AS f)
               AS running,
           (SELECT count(*) FROM (SELECT FROM reflex.lane AS t WHERE t.trigger_id = named.trigger_id AND held > 0 LIMIT %(limit)s)
                AS f) AS held,
           (SELECT count(*) FROM alive WHERE beats AND named.trigger_id = ANY(trigger_ids)) AS workers,
           waits.in_lanes, waits.put_off
    FROM named
    CROSS JOIN LATERAL (
        SELECT count(lane_key) AS in_lanes, count(*) - count(lane_key) AS put_off
        FROM (SELECT lane_key FROM reflex.waiting AS t WHERE t.trigger_id = named.trigger_id ORDER BY event_id LIMIT %(limit)s) AS f
    ) AS waits
),
first AS (
    SELECT o.*
    FROM named
    CROSS JOIN LATERAL (
        SELECT trigger_id, event_id, lease_epoch FROM reflex.delivery AS t
        WHERE t.trigger_id = named.trigger_id ORDER BY event_id LIMIT 10
    ) AS o
    UNION ALL
    SELECT o.*
    FROM named
    CROSS JOIN LATERAL (
        SELECT trigger_id, key FROM reflex.lane WHERE lane.trigger_id = named.trigger_id AND ready ORDER BY head LIMIT 10
    ) AS longest
    CROSS JOIN LATERAL (
        SELECT trigger_id, event_id, lease_epoch FROM reflex.ordered AS t
        WHERE t.trigger_id = longest.trigger_id AND t.key = longest.key ORDER BY position, event_id LIMIT 1
    ) AS o
),
due AS (
    SELECT trigger_id, extract(epoch FROM max(now - greatest(created_at, available_at, finished_at))) AS age_s
    FROM first
    CROSS JOIN LATERAL (
        SELECT created_at, available_at FROM reflex.event AS t WHERE t.event_id = first.event_id LIMIT 1
    ) AS stored
    LEFT JOIN LATERAL (
        SELECT finished_at FROM reflex.run AS t
        WHERE t.trigger_id = first.trigger_id AND t.event_id = first.event_id AND t.lease_epoch = first.lease_epoch
        LIMIT 1
    ) AS ended ON true, clock
    GROUP BY trigger_id
),
ownerless AS (
    SELECT started_at
    FROM reflex.lease
    WHERE NOT EXISTS (SELECT FROM alive WHERE alive.worker_id = lease.worker_id AND beats)
    LIMIT %(limit)s
)
SELECT 'reflex_deliveries' AS name, labels || state.state AS labels, greatest(0, state.number)::float8 AS value
FROM counted,
     LATERAL (VALUES ('pending', pending - in_lanes), ('scheduled', scheduled - put_off),
                     ('waiting', in_lanes + put_off), ('running', running)) AS state (state, number)
UNION ALL SELECT 'reflex_oldest_pending_seconds', labels, coalesce(greatest(0, age_s), 0) FROM counted LEFT JOIN due USING (trigger_id)
UNION ALL SELECT 'reflex_trigger_workers', labels, workers FROM counted
UNION ALL SELECT 'reflex_held_keys', labels, held FROM counted
UNION ALL
SELECT 'reflex_dead_letters', labels || reason, count(*)
FROM named
CROSS JOIN LATERAL (
    SELECT reason FROM reflex.dead_letter AS t WHERE t.trigger_id = named.trigger_id ORDER BY event_id LIMIT %(limit)s
) AS f
GROUP BY 2
UNION ALL
SELECT 'reflex_workers', ARRAY[app.name, CASE WHEN beats THEN 'live' ELSE 'silent' END], count(*)
FROM alive JOIN reflex.app USING (app_id) GROUP BY 2
UNION ALL
SELECT 'reflex_heartbeat_age_seconds', ARRAY[app.name], greatest(0, max(age_s))
FROM alive JOIN reflex.app USING (app_id) GROUP BY 2
UNION ALL SELECT 'reflex_ownerless_runs', '{}', count(*) FROM ownerless
UNION ALL
SELECT 'reflex_oldest_ownerless_run_seconds', '{}',
       (SELECT coalesce(greatest(0, extract(epoch FROM max(now - started_at))), 0) FROM ownerless, clock)

-- Every trigger with its patterns and how many of its deliveries are where, counted up to a limit each: a backlog of
-- a million is not counted row by row on each look. What is counted has an order for the sake of its index: without,
-- the planner takes the whole table for a trigger that has none of its rows, where another one has all of them.
-- A worker whose heartbeat is late does not count as live.
SELECT trigger.trigger_id AS id, trigger.name, app.name AS app,
       ARRAY(
           SELECT pattern FROM reflex.route WHERE route.trigger_id = trigger.trigger_id ORDER BY pattern
       ) AS patterns,
       trigger.max_attempts, trigger.definition::text AS definition, trigger.registered_at, trigger.retired_at,
       (
           SELECT count(*)
           FROM ((SELECT FROM reflex.delivery WHERE delivery.trigger_id = trigger.trigger_id
                  ORDER BY event_id LIMIT %(count_limit)s)
                 UNION ALL
                 (SELECT FROM reflex.ordered WHERE ordered.trigger_id = trigger.trigger_id
                  ORDER BY key, position LIMIT %(count_limit)s)
                 LIMIT %(count_limit)s) AS counted
       ) - waits.in_lanes AS pending,
       (
           SELECT count(*)
           FROM (SELECT FROM reflex.scheduled WHERE scheduled.trigger_id = trigger.trigger_id
                 ORDER BY event_id LIMIT %(count_limit)s) AS counted
       ) - waits.put_off AS scheduled,
       waits.in_lanes + waits.put_off AS waiting,
       (
           SELECT count(*)
           FROM (SELECT FROM reflex.lease WHERE lease.trigger_id = trigger.trigger_id
                 ORDER BY event_id LIMIT %(count_limit)s) AS counted
       ) AS running,
       (
           SELECT count(*)
           FROM (SELECT FROM reflex.dead_letter WHERE dead_letter.trigger_id = trigger.trigger_id
                 ORDER BY event_id LIMIT %(count_limit)s) AS counted
       ) AS dead,
       (
           SELECT count(*)
           FROM reflex.worker
           WHERE trigger.trigger_id = ANY(worker.trigger_ids)
             AND worker.heartbeat_at > coalesce(%(now)s::timestamptz, now()) - %(lease_timeout)s::interval
       ) AS live_workers
FROM reflex.trigger
JOIN reflex.app USING (app_id)
CROSS JOIN LATERAL (
    SELECT count(lane_key) AS in_lanes, count(*) - count(lane_key) AS put_off
    FROM (SELECT lane_key FROM reflex.waiting WHERE waiting.trigger_id = trigger.trigger_id
          ORDER BY event_id LIMIT %(count_limit)s) AS counted
) AS waits
ORDER BY app.name, trigger.name

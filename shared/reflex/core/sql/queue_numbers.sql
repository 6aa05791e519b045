-- How much is where. Each table is counted up to a limit; beyond it the answer is the planner's estimate, the density
-- of rows at the last vacuum times the size of the table now. Counting a million rows takes longer than a look should.
-- Deliveries that wait have their rows among those that are put off, or in lanes, and do not count there.
-- Waiting counts from when a delivery could first run: accepted, due, or its last run's end. A delivery does not
-- carry that moment, so the oldest few of each trigger, and the first of the lanes that
-- have waited longest, are looked up in the log.
WITH tables AS (
    SELECT relname AS name,
           CASE
               WHEN reltuples > 0 AND relpages > 0
               THEN (reltuples / relpages * (pg_relation_size(oid) / current_setting('block_size')::int))::bigint
               ELSE 0
           END AS estimate
    FROM pg_class
    WHERE relnamespace = 'reflex'::regnamespace
      AND relname IN ('delivery', 'ordered', 'scheduled', 'lease', 'dead_letter', 'unrouted')
),
counted AS (
    SELECT 'delivery' AS name, count(*) FROM (SELECT FROM reflex.delivery LIMIT %(count_limit)s) AS few
    UNION ALL
    SELECT 'ordered', count(*) FROM (SELECT FROM reflex.ordered LIMIT %(count_limit)s) AS few
    UNION ALL
    SELECT 'scheduled', count(*) FROM (SELECT FROM reflex.scheduled LIMIT %(count_limit)s) AS few
    UNION ALL
    SELECT 'lease', count(*) FROM (SELECT FROM reflex.lease LIMIT %(count_limit)s) AS few
    UNION ALL
    SELECT 'dead_letter', count(*) FROM (SELECT FROM reflex.dead_letter LIMIT %(count_limit)s) AS few
    UNION ALL
    SELECT 'unrouted', count(*) FROM (SELECT FROM reflex.unrouted LIMIT %(count_limit)s) AS few
),
number AS (
    SELECT name, CASE WHEN count < %(count_limit)s THEN count ELSE greatest(count, estimate) END AS number,
           count >= %(count_limit)s AS estimated
    FROM counted
    JOIN tables USING (name)
),
waits AS (
    SELECT count(lane_key) AS in_lanes, count(*) - count(lane_key) AS put_off
    FROM (SELECT lane_key FROM reflex.waiting LIMIT %(count_limit)s) AS few
),
waiting_since AS (
    SELECT greatest(event.created_at, event.available_at, run.finished_at) AS moment
    FROM reflex.trigger
    CROSS JOIN LATERAL (
        SELECT trigger_id, event_id, lease_epoch
        FROM reflex.delivery
        WHERE delivery.trigger_id = trigger.trigger_id
        ORDER BY delivery.event_id
        LIMIT 10
    ) AS oldest
    JOIN reflex.event USING (event_id)
    LEFT JOIN reflex.run
      ON run.trigger_id = oldest.trigger_id
     AND run.event_id = oldest.event_id
     AND run.lease_epoch = oldest.lease_epoch
    UNION ALL
    SELECT greatest(event.created_at, event.available_at, run.finished_at)
    FROM reflex.trigger
    CROSS JOIN LATERAL (
        SELECT trigger_id, key
        FROM reflex.lane
        WHERE lane.trigger_id = trigger.trigger_id AND lane.ready
        ORDER BY lane.head
        LIMIT 10
    ) AS longest
    CROSS JOIN LATERAL (
        SELECT trigger_id, event_id, lease_epoch
        FROM reflex.ordered
        WHERE ordered.trigger_id = longest.trigger_id AND ordered.key = longest.key
        ORDER BY ordered.position, ordered.event_id
        LIMIT 1
    ) AS oldest
    JOIN reflex.event USING (event_id)
    LEFT JOIN reflex.run
      ON run.trigger_id = oldest.trigger_id
     AND run.event_id = oldest.event_id
     AND run.lease_epoch = oldest.lease_epoch
    UNION ALL
    (SELECT available_at FROM reflex.scheduled ORDER BY available_at LIMIT 1)
)
SELECT greatest(0, sum(number) FILTER (WHERE name IN ('delivery', 'ordered')) - min(waits.in_lanes))::bigint AS pending,
       greatest(0, sum(number) FILTER (WHERE name = 'scheduled') - min(waits.put_off))::bigint AS scheduled,
       min(waits.in_lanes + waits.put_off) AS waiting,
       sum(number) FILTER (WHERE name = 'lease')::bigint AS running,
       sum(number) FILTER (WHERE name = 'dead_letter')::bigint AS dead,
       sum(number) FILTER (WHERE name = 'unrouted')::bigint AS unrouted,
       array_remove(array_agg(
           DISTINCT CASE
               WHEN NOT estimated THEN NULL
               WHEN name IN ('delivery', 'ordered') THEN 'pending'
               WHEN name = 'lease' THEN 'running'
               WHEN name = 'dead_letter' THEN 'dead'
               ELSE name
           END
       ), NULL) AS estimated,
       (
           SELECT extract(epoch FROM coalesce(%(now)s::timestamptz, now()) - min(moment))::float8
           FROM waiting_since
           WHERE moment <= coalesce(%(now)s::timestamptz, now())
       ) AS oldest_pending_s,
       (
           SELECT count(*)
           FROM (
               SELECT FROM reflex.lease
               WHERE NOT EXISTS (SELECT FROM reflex.worker WHERE worker.worker_id = lease.worker_id)
               LIMIT %(count_limit)s
           ) AS few
       ) AS orphaned,
       (SELECT count(*) FROM (SELECT FROM reflex.lane WHERE held > 0 LIMIT %(count_limit)s) AS few) AS held_keys
FROM number
CROSS JOIN waits

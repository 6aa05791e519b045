-- Remove runs that outlived the partition they were in and are over now: of events before an id, ended before a moment,
-- of which no delivery is open or dead. OFFSET 0 makes the planner look each up.
WITH old AS (
    SELECT ended.ctid
    FROM reflex.trigger
    CROSS JOIN LATERAL (
        SELECT ctid
        FROM reflex.run_rest AS run
        WHERE run.trigger_id = trigger.trigger_id AND run.event_id < %(event_id)s AND finished_at < %(before)s
          AND NOT EXISTS (
              SELECT FROM reflex.delivery AS t WHERE t.trigger_id = run.trigger_id AND t.event_id = run.event_id OFFSET 0
          )
          AND NOT EXISTS (
              SELECT FROM reflex.scheduled AS t WHERE t.trigger_id = run.trigger_id AND t.event_id = run.event_id OFFSET 0
          )
          AND NOT EXISTS (
              SELECT FROM reflex.lease AS t WHERE t.trigger_id = run.trigger_id AND t.event_id = run.event_id OFFSET 0
          )
          AND NOT EXISTS (
              SELECT FROM reflex.dead_letter AS t
              WHERE t.trigger_id = run.trigger_id AND t.event_id = run.event_id OFFSET 0
          )
          AND NOT EXISTS (SELECT FROM reflex.ordered AS t WHERE t.event_id = run.event_id OFFSET 0)
          AND NOT EXISTS (SELECT FROM reflex.gathered AS t WHERE t.event_id = run.event_id OFFSET 0)
        ORDER BY run.event_id
        LIMIT %(limit)s
    ) AS ended
    LIMIT %(limit)s
),
forgotten AS (
    DELETE FROM reflex.run_rest WHERE ctid = ANY(ARRAY(SELECT ctid FROM old)) RETURNING event_id
)
SELECT count(*) FROM forgotten

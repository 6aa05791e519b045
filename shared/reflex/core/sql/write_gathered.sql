-- Keep events for a run to come, or say of some that are kept already that they are part of a batch by now.
-- What is kept of a window has an end, counted from now: of events that were accepted long ago, others may still come.
INSERT INTO reflex.gathered (event_id, trigger_id, subject, accepted_at, batch_id, fired, expires_at)
SELECT event_id, trigger_id, subject, accepted_at, batch_id, fired, greatest(now(), accepted_at) + keep_for
FROM unnest(%(event_id)s::uuid[], %(trigger_id)s::int[], %(subject)s::text[], %(accepted_at)s::timestamptz[],
            %(batch_id)s::uuid[], %(fired)s::boolean[], %(keep_for)s::interval[])
     AS t (event_id, trigger_id, subject, accepted_at, batch_id, fired, keep_for)
ON CONFLICT (event_id, trigger_id) DO UPDATE
SET batch_id = coalesce(excluded.batch_id, gathered.batch_id), fired = excluded.fired

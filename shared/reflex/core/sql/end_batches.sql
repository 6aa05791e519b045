-- These batches were handed over, in the transaction that settles the runs that had them. Of a window, what says that it
-- has fired stays until its end.
WITH ended AS (
    SELECT trigger_id, event_id
    FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS t (trigger_id, event_id)
),
over AS (
    DELETE FROM reflex.batch
    USING ended
    WHERE batch.trigger_id = ended.trigger_id AND batch.event_id = ended.event_id
),
fired AS (
    UPDATE reflex.gathered
    SET batch_id = NULL
    FROM ended
    WHERE gathered.trigger_id = ended.trigger_id AND gathered.batch_id = ended.event_id
      AND gathered.expires_at IS NOT NULL
)
DELETE FROM reflex.gathered
USING ended
WHERE gathered.trigger_id = ended.trigger_id AND gathered.batch_id = ended.event_id AND gathered.expires_at IS NULL

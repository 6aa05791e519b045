-- Remove what deliveries that were just woken awaited; what they await anew, since, stays.
DELETE FROM reflex.awaited
WHERE ctid = ANY(ARRAY(
    SELECT awaited.ctid
    FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[]) AS woken (trigger_id, event_id)
    JOIN reflex.awaited USING (trigger_id, event_id)
    LEFT JOIN reflex.waiting USING (trigger_id, event_id, since)
    WHERE waiting.event_id IS NULL
    FOR UPDATE OF awaited SKIP LOCKED
))

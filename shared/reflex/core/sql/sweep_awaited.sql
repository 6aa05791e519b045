-- Remove what nobody waits for any more: the time was over, or the delivery was made due, or ended, for another reason.
DELETE FROM reflex.awaited
WHERE ctid = ANY(ARRAY(
    SELECT awaited.ctid
    FROM reflex.awaited
    LEFT JOIN reflex.waiting USING (trigger_id, event_id, since)
    WHERE waiting.event_id IS NULL
    LIMIT %(limit)s
    FOR UPDATE OF awaited SKIP LOCKED
))

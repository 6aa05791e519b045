-- Approvals, the newest first. Filters that are NULL do not count; the statement is never prepared.
-- A pending one is void if the journal of the run that asked has forgotten it: nobody waits for the answer any more.
SELECT approval_id, approval.trigger_id, approval.event_id, trigger.name AS trigger, app.name AS app, tool,
       tool_call_id, arguments::text AS arguments, encode(digest, 'hex') AS digest, metadata::text AS metadata,
       edits_allowed, approval.created_at, expires_at, decided_at, decided_by,
       edited_arguments::text AS edited_arguments, reason,
       CASE WHEN decision IS NOT NULL THEN decision
            WHEN expires_at <= now() THEN 'expired'
            WHEN step.trigger_id IS NULL THEN 'void'
            ELSE 'pending' END AS state,
       approval.lane_key, event.key, event.correlation_id, event.depth, event.reply_to, now() AS now
FROM reflex.approval
JOIN reflex.trigger USING (trigger_id)
JOIN reflex.app USING (app_id)
JOIN reflex.event ON event.event_id = approval.event_id
LEFT JOIN reflex.step ON step.trigger_id = approval.trigger_id AND step.event_id = approval.event_id
                     AND step.fingerprint = approval.fingerprint AND step.occurrence = approval.occurrence
WHERE (%(approval_id)s::uuid IS NULL OR approval_id = %(approval_id)s)
  AND (%(before_id)s::uuid IS NULL OR approval_id < %(before_id)s)
  AND (%(trigger)s::text IS NULL OR trigger.name = %(trigger)s)
  AND (NOT %(pending)s::boolean OR (decided_at IS NULL AND expires_at > now() AND step.trigger_id IS NOT NULL))
  AND (NOT %(decided)s::boolean OR decided_at IS NOT NULL OR expires_at <= now())
  AND (%(seen_low)s::text[] IS NULL OR EXISTS (
      SELECT FROM unnest(%(seen_low)s::text[], %(seen_high)s::text[]) AS seen (low, high)
      WHERE event.type >= seen.low AND event.type <= seen.high
  ))
  AND (%(seen_sources)s::text[] IS NULL OR event.source = ANY(%(seen_sources)s::text[]))
ORDER BY approval_id DESC
LIMIT %(limit)s

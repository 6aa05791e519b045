-- Remove the approvals whose events are gone. OFFSET 0 makes the planner look each event up.
DELETE FROM reflex.approval
WHERE NOT EXISTS (SELECT FROM reflex.event WHERE event.event_id = approval.event_id OFFSET 0)

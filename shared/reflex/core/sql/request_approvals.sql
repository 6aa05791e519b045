-- Ask for approvals of tool calls, in the transaction that settles the runs that wait for them.
-- An id is asked for once: the run's journal knows it before.
INSERT INTO reflex.approval (approval_id, trigger_id, event_id, lane_key, fingerprint, occurrence, tool, tool_call_id,
                             arguments, digest, metadata, edits_allowed, created_at, expires_at)
SELECT approval_id, trigger_id, event_id, lane_key, fingerprint, occurrence, tool, tool_call_id, arguments, digest,
       metadata, edits_allowed, created_at, expires_at
FROM unnest(
    %(approval_id)s::uuid[], %(trigger_id)s::int[], %(event_id)s::uuid[], %(lane_key)s::text[],
    %(fingerprint)s::bytea[], %(occurrence)s::int[], %(tool)s::text[], %(tool_call_id)s::text[], %(arguments)s::json[],
    %(digest)s::bytea[], %(metadata)s::json[], %(edits_allowed)s::boolean[], %(created_at)s::timestamptz[],
    %(expires_at)s::timestamptz[]
) AS asked (approval_id, trigger_id, event_id, lane_key, fingerprint, occurrence, tool, tool_call_id, arguments, digest,
            metadata, edits_allowed, created_at, expires_at)
ON CONFLICT (approval_id) DO NOTHING

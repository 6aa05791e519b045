-- Say for what deliveries wait that were just settled as waiting, in the transaction that settled them.
INSERT INTO reflex.waiting (trigger_id, event_id, lane_key, kind, reason)
SELECT trigger_id, event_id, lane_key, kind, reason
FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[], %(lane_key)s::text[], %(kind)s::text[], %(reason)s::text[])
    AS t (trigger_id, event_id, lane_key, kind, reason)
ON CONFLICT (trigger_id, event_id) DO UPDATE
SET lane_key = excluded.lane_key, kind = excluded.kind, reason = excluded.reason, since = excluded.since

-- What waits behind runs in their lanes, the first %(limit)s of each after %(position)s and %(after_event_id)s, in its order:
-- the run's trigger and event, the position, and the event in the columns of a claim. Only looks: what it finds is a hint
-- that the run is not the newest of its key.
SELECT asked.trigger_id, asked.event_id, newer.position,
       event.event_id, event.type, event.source, event.key, event.time, event.payload, event.correlation_id,
       event.causation_id, event.depth, event.trace_context
FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[], %(lane_key)s::text[], %(position)s::bigint[],
            %(after_event_id)s::uuid[])
     AS asked (trigger_id, event_id, lane_key, position, after_event_id)
CROSS JOIN LATERAL (
    SELECT ordered.event_id, ordered.position
    FROM reflex.ordered
    WHERE ordered.trigger_id = asked.trigger_id AND ordered.key = asked.lane_key
      AND (ordered.position, ordered.event_id) > (asked.position, asked.after_event_id)
    ORDER BY ordered.position, ordered.event_id
    LIMIT %(limit)s
) AS newer
JOIN reflex.event ON event.event_id = newer.event_id
ORDER BY asked.trigger_id, asked.event_id, newer.position, newer.event_id

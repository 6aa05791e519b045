-- What waits behind runs in their lanes, the first %(limit)s of each, in its order: the run's trigger and event, and the
-- event in the columns of a claim. Only looks: what it finds is a hint that the run is not the newest of its key.
SELECT asked.trigger_id, asked.event_id,
       event.event_id, event.type, event.source, event.key, event.time, event.payload, event.correlation_id,
       event.causation_id, event.depth, event.trace_context
FROM unnest(%(trigger_id)s::int[], %(event_id)s::uuid[], %(lane_key)s::text[], %(position)s::bigint[])
     AS asked (trigger_id, event_id, lane_key, position)
CROSS JOIN LATERAL (
    SELECT ordered.event_id, ordered.position
    FROM reflex.ordered
    WHERE ordered.trigger_id = asked.trigger_id AND ordered.key = asked.lane_key
      AND (ordered.position, ordered.event_id) > (asked.position, asked.event_id)
    ORDER BY ordered.position, ordered.event_id
    LIMIT %(limit)s
) AS newer
JOIN reflex.event ON event.event_id = newer.event_id
ORDER BY asked.trigger_id, asked.event_id, newer.position, newer.event_id

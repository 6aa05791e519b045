-- Events after a cursor, in the order of the log: those of up to %(appends)s appends that pass the filter, at most
-- %(limit)s and about %(max_bytes)s of payload. A filter that is NULL does not count.
-- A last row without an event is where reading goes on; it is missing if not all that was found is here, and then
-- reading goes on after the last event.
-- The lateral LIMIT keeps the planner from joining the whole of reflex.event because it overrates what an array holds.
WITH span AS MATERIALIZED (
    SELECT position, event_ids
    FROM reflex.log
    WHERE position >= %(position)s
    ORDER BY position
    LIMIT %(appends)s
),
found AS MATERIALIZED (
    SELECT span.position, member.place, event.*,
           sum(pg_column_size(event.payload)) OVER (ORDER BY span.position, member.place)
               - pg_column_size(event.payload) AS bytes_before
    FROM span
    CROSS JOIN LATERAL unnest(span.event_ids) WITH ORDINALITY AS member (event_id, place)
    CROSS JOIN LATERAL (
        SELECT event_id, type, source, key, "time", payload, correlation_id, causation_id, depth, trace_context,
               available_at, created_at, reply_to
        FROM reflex.event
        WHERE event.event_id = member.event_id
        LIMIT 1
    ) AS event
    WHERE (span.position, member.place) > (%(position)s, %(place)s)
      AND (%(type_low)s::text[] IS NULL OR EXISTS (
          SELECT FROM unnest(%(type_low)s::text[], %(type_high)s::text[]) AS wanted (low, high)
          WHERE event.type >= wanted.low AND event.type <= wanted.high
      ))
      AND (%(sources)s::text[] IS NULL OR event.source = ANY(%(sources)s::text[]))
      AND (%(key)s::text IS NULL OR event.key = %(key)s)
      AND (%(correlation_id)s::text IS NULL OR event.correlation_id = %(correlation_id)s)
      AND (%(reply_to)s::text IS NULL OR event.reply_to = %(reply_to)s)
),
page AS MATERIALIZED (
    SELECT *
    FROM found
    WHERE bytes_before < %(max_bytes)s
    ORDER BY position, place
    LIMIT %(limit)s
)
SELECT position, place, event_id, type, source, key, "time", payload::text AS payload, correlation_id, causation_id,
       depth, trace_context, available_at, created_at, reply_to
FROM page
UNION ALL
(
    SELECT position, cardinality(event_ids), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           NULL
    FROM span
    WHERE (SELECT count(*) FROM page) = (SELECT count(*) FROM found)
    ORDER BY position DESC
    LIMIT 1
)
ORDER BY position, place, event_id NULLS LAST

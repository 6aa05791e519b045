-- Events after a cursor, in the order of the log: those that pass the filter among the next %(looked_at)s or some more
-- (an append is looked at as a whole), at most %(limit)s and about %(max_bytes)s of payload. A filter that is NULL does
-- not count.
-- A last row without an event is where reading goes on; it is missing if not all that was found is here, and then
-- reading goes on after the last event. Every row ends with where the log begins, as of this very snapshot; there is
-- one for that even if there is nothing to read.
-- NOT MATERIALIZED, and ordered by position at every level: so the planner knows that it need not sort the whole span,
-- and stops at the limit. The lateral LIMIT keeps it from joining the whole of reflex.event because it overrates what an
-- array holds.
WITH span AS NOT MATERIALIZED (
    SELECT position, event_ids
    FROM (
        SELECT position, event_ids,
               sum(cardinality(event_ids)) OVER (ORDER BY position) - cardinality(event_ids) AS events_before
        FROM reflex.log
        WHERE position >= %(position)s
        ORDER BY position
        LIMIT %(looked_at)s::bigint + 1
    ) AS ahead
    WHERE events_before < %(looked_at)s::bigint + %(place)s
),
found AS MATERIALIZED (
    SELECT span.position, member.place, event.*
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
    ORDER BY position, place
    LIMIT %(limit)s
),
page AS MATERIALIZED (
    SELECT *
    FROM (
        SELECT *, sum(pg_column_size(payload)) OVER (ORDER BY position, place) - pg_column_size(payload) AS bytes_before
        FROM found
    ) AS measured
    WHERE bytes_before < %(max_bytes)s
)
SELECT line.*, log_start.position AS start_position, log_start.place AS start_place
FROM reflex.log_start
LEFT JOIN (
    SELECT position, place, event_id, type, source, key, "time", payload::text AS payload, correlation_id,
           causation_id, depth, trace_context, available_at, created_at, reply_to
    FROM page
    UNION ALL
    (
        SELECT position, cardinality(event_ids), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
               NULL, NULL
        FROM span
        WHERE (SELECT count(*) FROM found) < %(limit)s
          AND (SELECT count(*) FROM found) = (SELECT count(*) FROM page)
        ORDER BY position DESC
        LIMIT 1
    )
) AS line ON true
ORDER BY line.position, line.place, line.event_id NULLS LAST

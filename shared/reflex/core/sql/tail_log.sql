-- Where to begin, so that the latest %(count)s events that pass the filter follow. Only the last %(appends)s appends
-- are looked at, which bounds the time when little matches. A filter that is NULL does not count.
-- What was dropped is not there: it is needed for its events' sake only.
-- The lateral LIMIT keeps the planner from joining the whole of reflex.event because it overrates what an array holds.
WITH span AS MATERIALIZED (
    SELECT log.position, log.event_ids
    FROM reflex.log_start
    JOIN reflex.log ON log.position >= log_start.position
    ORDER BY log.position DESC
    LIMIT %(appends)s
),
latest AS (
    SELECT span.position, member.place
    FROM span
    CROSS JOIN LATERAL unnest(span.event_ids) WITH ORDINALITY AS member (event_id, place)
    JOIN reflex.log_start ON (span.position, member.place) > (log_start.position, log_start.place)
    CROSS JOIN LATERAL (
        SELECT type, source, key, correlation_id, reply_to
        FROM reflex.event
        WHERE event.event_id = member.event_id
        LIMIT 1
    ) AS event
    WHERE (%(type_low)s::text[] IS NULL OR EXISTS (
          SELECT FROM unnest(%(type_low)s::text[], %(type_high)s::text[]) AS wanted (low, high)
          WHERE event.type >= wanted.low AND event.type <= wanted.high
      ))
      AND (%(sources)s::text[] IS NULL OR event.source = ANY(%(sources)s::text[]))
      AND (%(key)s::text IS NULL OR event.key = %(key)s)
      AND (%(correlation_id)s::text IS NULL OR event.correlation_id = %(correlation_id)s)
      AND (%(reply_to)s::text IS NULL OR event.reply_to = %(reply_to)s)
    ORDER BY span.position DESC, member.place DESC
    LIMIT %(count)s
)
SELECT position, (place - 1)::int AS place
FROM latest
ORDER BY position, place
LIMIT 1

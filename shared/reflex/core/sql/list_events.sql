-- One page of the log, newest first. Filters that are NULL do not count; the planner sees the values (the statement
-- is never prepared), so what is not asked for costs nothing.
-- `led_by` names the filter whose index gives the order, or is empty. It is bounded by row comparisons, which are
-- where that index is entered and left, and sorted by as well. With `type = …` and `event_id < …` instead the planner
-- may walk the primary key in the hope of meeting such an event soon (for a type that stopped long ago that is the
-- whole log), or begin at the newest entry of the type on every page. The bounds include their ends: with `<` the planner
-- takes nothing to be between two bounds of one type, and sorts all of it instead of merging the indexes of partitions.
-- The bounds of the id alone say which partitions there is to look at.
-- Large payloads stay out of lists: 500 of them would be half a gigabyte.
SELECT page.id, page.type, page.source, page.key, page."time", page.payload, page.correlation_id, page.causation_id,
       page.depth, page.trace_context, page.available_at, page.created_at,
       coalesce(waiting.found, false) AS unrouted
FROM (
    SELECT event_id AS id, type, source, key, "time",
           CASE
               WHEN pg_column_size(payload) > %(payload_limit)s THEN NULL
               WHEN octet_length(payload::text) > %(payload_limit)s THEN NULL
               ELSE payload::text
           END AS payload,
           correlation_id, causation_id, depth, trace_context, available_at, created_at
    FROM reflex.event
    WHERE CASE %(led_by)s::text
              WHEN 'type' THEN
                  (type, event_id) >= (%(type_low)s::text, %(from_id)s::uuid)
                  AND (type, event_id) <= (%(type_low)s::text, %(before_id)s::uuid)
              WHEN 'key' THEN
                  key IS NOT NULL
                  AND (key, event_id) >= (%(key)s::text, %(from_id)s::uuid)
                  AND (key, event_id) <= (%(key)s::text, %(before_id)s::uuid)
              WHEN 'correlation_id' THEN
                  correlation_id IS NOT NULL
                  AND (correlation_id, event_id) >= (%(correlation_id)s::text, %(from_id)s::uuid)
                  AND (correlation_id, event_id) <= (%(correlation_id)s::text, %(before_id)s::uuid)
              ELSE true
          END
      AND event_id >= %(from_id)s::uuid AND event_id < %(before_id)s::uuid
      AND (%(type_low)s::text IS NULL OR %(led_by)s::text = 'type'
           OR (type >= %(type_low)s AND type <= %(type_high)s::text))
      AND (%(key)s::text IS NULL OR %(led_by)s::text = 'key' OR key = %(key)s)
      AND (%(source)s::text IS NULL OR source = %(source)s)
      AND (%(seen_low)s::text[] IS NULL OR EXISTS (
          SELECT FROM unnest(%(seen_low)s::text[], %(seen_high)s::text[]) AS seen (low, high)
          WHERE event.type >= seen.low AND event.type <= seen.high
      ))
      AND (%(seen_sources)s::text[] IS NULL OR event.source = ANY(%(seen_sources)s::text[]))
    ORDER BY CASE WHEN %(led_by)s::text = 'type' THEN type END DESC,
             CASE WHEN %(led_by)s::text = 'key' THEN key END DESC,
             CASE WHEN %(led_by)s::text = 'correlation_id' THEN correlation_id END DESC,
             event_id DESC
    LIMIT %(limit)s
) AS page
LEFT JOIN LATERAL (
    SELECT true AS found
    FROM reflex.unrouted
    WHERE unrouted.type = page.type AND unrouted.event_id = page.id
    LIMIT 1
) AS waiting ON true
ORDER BY page.id DESC

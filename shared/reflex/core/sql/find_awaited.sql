-- Which waiting deliveries await an event that is new: of the awaited types and, where one is asked for, of the key.
-- Whether it is the right one the run itself says, when it is due again.
-- One process at a time looks; who finds the mark locked, or moved since this snapshot, does nothing and looks again.
-- What is new since the mark is held against all that is followed, once. A row that is not followed yet is looked at by
-- itself, from where its run looked last, and then followed: the mark may have passed events that the run has not seen.
-- One that is too far behind, or that finds an event, is asked again in a second, and so is a followed one that finds
-- an event: should whoever reads this die before it has made the delivery due, that look finds it again.
-- With nothing followed the mark is set to the end of the log.
WITH mark AS MATERIALIZED (
    SELECT position
    FROM reflex.await_mark
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM reflex.await_mark FOR UPDATE SKIP LOCKED))
),
followed AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM reflex.awaited WHERE look_at IS NULL) AS anything
),
span AS MATERIALIZED (
    SELECT ahead.position, ahead.event_ids
    FROM mark
    CROSS JOIN LATERAL (
        SELECT log.position, log.event_ids
        FROM reflex.log
        WHERE log.position > mark.position AND (SELECT anything FROM followed)
        ORDER BY log.position
        LIMIT %(appends)s
    ) AS ahead
),
reached AS MATERIALIZED (
    SELECT greatest(mark.position, CASE
               WHEN followed.anything THEN (SELECT max(position) FROM span)
               ELSE (SELECT position FROM reflex.log ORDER BY position DESC LIMIT 1)
           END) AS position
    FROM mark
    CROSS JOIN followed
),
news AS MATERIALIZED (
    SELECT event.type, event.key, max(span.position) AS position
    FROM span
    CROSS JOIN LATERAL unnest(span.event_ids) AS member (event_id)
    CROSS JOIN LATERAL (SELECT type, key FROM reflex.event WHERE event.event_id = member.event_id LIMIT 1) AS event
    GROUP BY event.type, event.key
),
met AS (
    UPDATE reflex.awaited
    SET look_at = now() + interval '1 second'
    WHERE ctid = ANY(ARRAY(
        SELECT awaited.ctid
        FROM news
        JOIN reflex.awaited ON awaited.key = news.key AND awaited.position < news.position
        WHERE awaited.look_at IS NULL AND awaited.key IS NOT NULL
          AND EXISTS (SELECT FROM unnest(type_low, type_high) AS t (low, high) WHERE news.type BETWEEN t.low AND t.high)
        UNION ALL
        SELECT awaited.ctid
        FROM (SELECT type, max(position) AS position FROM news GROUP BY type) AS news
        JOIN reflex.awaited ON awaited.position < news.position
        WHERE awaited.look_at IS NULL AND awaited.key IS NULL
          AND EXISTS (SELECT FROM unnest(type_low, type_high) AS t (low, high) WHERE news.type BETWEEN t.low AND t.high)
    ))
    RETURNING trigger_id, event_id, since
),
asked AS MATERIALIZED (
    SELECT first.*, reached.position AS until, reached.position - first.position > %(appends)s AS far_behind
    FROM reached
    CROSS JOIN LATERAL (
        SELECT ctid AS place, *
        FROM reflex.awaited
        WHERE look_at <= now()
        ORDER BY look_at
        LIMIT %(waits)s
    ) AS first
),
judged AS MATERIALIZED (
    SELECT place, trigger_id, event_id, since, far_behind OR EXISTS (
        SELECT
        FROM reflex.log
        CROSS JOIN LATERAL unnest(log.event_ids) AS member (event_id)
        CROSS JOIN LATERAL (SELECT type, key FROM reflex.event WHERE event.event_id = member.event_id LIMIT 1) AS event
        WHERE NOT far_behind AND log.position > asked.position AND log.position <= asked.until
          AND (asked.key IS NULL OR event.key = asked.key)
          AND EXISTS (SELECT FROM unnest(type_low, type_high) AS t (low, high) WHERE event.type BETWEEN t.low AND t.high)
    ) AS found
    FROM asked
),
begun AS (
    UPDATE reflex.awaited
    SET look_at = CASE WHEN judged.found THEN now() + interval '1 second' END
    FROM judged
    WHERE awaited.ctid = judged.place
),
moved AS (
    UPDATE reflex.await_mark
    SET position = reached.position
    FROM reached
    WHERE await_mark.position < reached.position
),
found AS (
    SELECT trigger_id, event_id, since FROM met
    UNION
    SELECT trigger_id, event_id, since FROM judged WHERE found
)
SELECT coalesce(array_agg(trigger_id), '{}') AS trigger_ids, coalesce(array_agg(event_id), '{}') AS event_ids,
       (SELECT count(*) FROM span) >= %(appends)s OR (SELECT count(*) FROM asked) >= %(waits)s AS more,
       (SELECT min(look_at) FROM reflex.awaited WHERE look_at > now()) - now() AS next_in,
       EXISTS (SELECT FROM reflex.awaited) AS anything
FROM found

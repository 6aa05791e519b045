-- What was gathered of these subjects around new events, which were accepted between two moments: all in between, and on
-- each side the nearest that could be in one window with one of them.
SELECT asked.trigger_id, asked.subject, near.accepted_at, near.event_id, near.fired
FROM unnest(%(trigger_id)s::int[], %(subject)s::text[], %(first_at)s::timestamptz[], %(last_at)s::timestamptz[],
            %(within)s::interval[], %(most)s::int[]) AS asked (trigger_id, subject, first_at, last_at, within, most)
CROSS JOIN LATERAL (
    (
        SELECT accepted_at, event_id, fired
        FROM reflex.gathered
        WHERE trigger_id = asked.trigger_id AND subject = asked.subject AND expires_at IS NOT NULL
          AND accepted_at >= asked.first_at - asked.within AND accepted_at < asked.first_at
        ORDER BY accepted_at DESC
        LIMIT asked.most
    )
    UNION ALL
    SELECT accepted_at, event_id, fired
    FROM reflex.gathered
    WHERE trigger_id = asked.trigger_id AND subject = asked.subject AND expires_at IS NOT NULL
      AND accepted_at >= asked.first_at AND accepted_at <= asked.last_at
    UNION ALL
    (
        SELECT accepted_at, event_id, fired
        FROM reflex.gathered
        WHERE trigger_id = asked.trigger_id AND subject = asked.subject AND expires_at IS NOT NULL
          AND accepted_at > asked.last_at AND accepted_at <= asked.last_at + asked.within
        ORDER BY accepted_at
        LIMIT asked.most
    )
) AS near

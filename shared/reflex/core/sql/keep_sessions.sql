-- The positions up to which sessions have their replies; a position only moves forward.
-- In order of their ids: two gateways may hold connections of one session, and would else lock its rows crosswise.
INSERT INTO reflex.session AS kept (session_id, position, place)
SELECT session_id, position, place
FROM unnest(%(session_id)s::text[], %(position)s::bigint[], %(place)s::int[]) AS given (session_id, position, place)
ORDER BY session_id
ON CONFLICT (session_id) DO UPDATE
SET position = excluded.position, place = excluded.place, seen_at = now()
WHERE (excluded.position, excluded.place) > (kept.position, kept.place)

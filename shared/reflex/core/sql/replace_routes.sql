-- Make the routes of these triggers exactly the given ones, and tell the gateways.
-- Data-modifying parts of one statement see the same snapshot: a route that stays is not in `dropped`, so it is
-- never deleted and inserted at once.
WITH given AS (
    SELECT *
    FROM unnest(%(trigger_id)s::int[], %(pattern)s::text[], %(low)s::text[], %(high)s::text[], %(key_path)s::text[])
         AS t (trigger_id, pattern, low, high, key_path)
),
dropped AS (
    DELETE FROM reflex.route
    WHERE trigger_id = ANY(%(trigger_ids)s::int[])
      AND (trigger_id, pattern) NOT IN (SELECT trigger_id, pattern COLLATE "C" FROM given)
),
added AS (
    INSERT INTO reflex.route (pattern, trigger_id, low, high, key_path)
    SELECT pattern, trigger_id, low, high, string_to_array(key_path, '.')
    FROM given
    ON CONFLICT (pattern, trigger_id) DO UPDATE
    SET key_path = excluded.key_path
    WHERE route.key_path IS DISTINCT FROM excluded.key_path
)
SELECT pg_notify('reflex_registry', '')

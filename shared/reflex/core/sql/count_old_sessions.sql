-- How many sessions nobody has used for a while: those that `forget_sessions` would remove, were they not in use just now.
SELECT count(*) AS old
FROM reflex.session
WHERE seen_at < coalesce(%(now)s::timestamptz, now()) - %(age)s::interval

-- Whether one of these schedules is due or not planned yet, and how long until the next one is due. Asked between
-- fires, so it locks nothing. Rows that are due are left out of the second: whoever has them locked moves them on.
SELECT coalesce(bool_or(next_at IS NULL OR next_at <= coalesce(%(now)s::timestamptz, now())), false) AS due,
       min(next_at) FILTER (WHERE next_at > coalesce(%(now)s::timestamptz, now()))
           - coalesce(%(now)s::timestamptz, now()) AS next_in
FROM reflex.schedule
WHERE schedule_id = ANY(%(schedule_ids)s::int[]) AND retired_at IS NULL

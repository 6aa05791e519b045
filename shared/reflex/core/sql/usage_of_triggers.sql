-- What the agents of each trigger have used up in runs that ended within %(within)s, those that failed too. What a run
-- had from its journal an earlier one has paid for.
SELECT trigger.name AS trigger, app.name AS app, count(*) AS runs,
       sum(coalesce((usage->>'requests')::bigint, 0) - coalesce((usage->>'replayed_requests')::bigint, 0))::bigint AS requests,
       sum(coalesce((usage->>'input_tokens')::bigint, 0) - coalesce((usage->>'replayed_input_tokens')::bigint, 0))::bigint
           AS input_tokens,
       sum(coalesce((usage->>'output_tokens')::bigint, 0) - coalesce((usage->>'replayed_output_tokens')::bigint, 0))::bigint
           AS output_tokens,
       sum((usage->>'cost_usd')::numeric - coalesce((usage->>'replayed_cost_usd')::numeric, 0)) AS cost_usd,
       count(*) FILTER (WHERE usage->>'cost_usd' IS NULL) AS unpriced_runs
FROM reflex.run
JOIN reflex.trigger USING (trigger_id)
JOIN reflex.app USING (app_id)
WHERE run.usage IS NOT NULL AND run.finished_at >= coalesce(%(now)s::timestamptz, now()) - %(within)s::interval
GROUP BY trigger.name, app.name
ORDER BY app.name, trigger.name

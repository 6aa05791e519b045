-- The budgets to look at, up to %(limit)s of each kind: those of triggers in their window of now, and those that refused
-- a call and whose window is still open. Each kind is found by a small index, whatever else was spent.
WITH found AS (
    (
        SELECT spend_id
        FROM reflex.spend
        WHERE scope = 'trigger' AND ends_at > coalesce(%(now)s::timestamptz, now())
        ORDER BY ends_at
        LIMIT %(limit)s::int
    )
    UNION
    (
        SELECT spend_id
        FROM reflex.spend
        WHERE refused_at IS NOT NULL AND scope <> 'trigger'
          AND (ends_at IS NULL OR ends_at > coalesce(%(now)s::timestamptz, now()))
        ORDER BY refused_at DESC
        LIMIT %(limit)s::int
    )
)
SELECT spend.spend_id AS id, trigger.name AS trigger, app.name AS app, spend.scope, spend.subject, spend.quantity,
       spend.period, spend.allowed, spend.raised, spend.spent, spend.reserved, spend.refused_at,
       nullif(spend.window_at, 'epoch') AS began_at, spend.ends_at
FROM found
JOIN reflex.spend USING (spend_id)
LEFT JOIN reflex.trigger ON trigger.trigger_id = spend.trigger_id
LEFT JOIN reflex.app ON app.app_id = trigger.app_id
ORDER BY app.name NULLS LAST, trigger.name, spend.scope, spend.subject, spend.quantity, spend.period

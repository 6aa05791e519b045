-- May the model be asked now? A row only if it has failed since it last answered; `blocked_for` is NULL if it may.
-- Of those who ask when the time is over, one gets the row and tries: who finds it taken waits a moment.
WITH probe AS (
    UPDATE reflex.circuit
    SET probing_until = now() + %(probe_for)s::interval
    WHERE model = %(model)s::text AND open_until <= now() AND coalesce(probing_until <= now(), true)
    RETURNING model
)
SELECT reason,
       CASE
           WHEN open_until IS NULL OR EXISTS (SELECT FROM probe) THEN NULL
           ELSE greatest(open_until - now(), probing_until - now(), interval '1 second')
       END AS blocked_for
FROM reflex.circuit
WHERE model = %(model)s

-- A model failed. It is open from so many failures in a row on, each time twice as long as the last, or for as
-- long as its provider asks. A failure of a request that was under way when it opened changes nothing.
INSERT INTO reflex.circuit (model, failures, reason, opened, open_until)
SELECT %(model)s::text, 1, %(reason)s::text, CASE WHEN %(threshold)s::int <= 1 THEN 1 ELSE 0 END,
       CASE WHEN %(threshold)s::int <= 1 THEN now() + greatest(%(open_for)s::interval, %(retry_after)s::interval) END
ON CONFLICT (model) DO UPDATE
SET failures      = CASE
                        WHEN circuit.open_until > now() THEN circuit.failures
                        WHEN circuit.open_until IS NULL AND circuit.failed_at < now() - %(memory)s::interval THEN 1
                        ELSE circuit.failures + 1
                    END,
    reason        = excluded.reason,
    failed_at     = now(),
    opened        = CASE
                        WHEN circuit.open_until > now() THEN circuit.opened
                        WHEN circuit.open_until IS NOT NULL THEN circuit.opened + 1
                        WHEN circuit.failed_at >= now() - %(memory)s::interval AND circuit.failures + 1 >= %(threshold)s::int THEN 1
                        ELSE 0
                    END,
    probing_until = NULL,
    open_until    = CASE
                        WHEN circuit.open_until > now() THEN circuit.open_until
                        WHEN circuit.open_until IS NOT NULL
                        THEN now() + greatest(
                            least(%(open_for)s::interval * power(2, least(circuit.opened, 20)), %(longest)s::interval),
                            %(retry_after)s::interval
                        )
                        WHEN circuit.failed_at >= now() - %(memory)s::interval AND circuit.failures + 1 >= %(threshold)s::int
                        THEN now() + greatest(%(open_for)s::interval, %(retry_after)s::interval)
                    END
RETURNING open_until - now() AS open_for

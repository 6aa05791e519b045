-- The models that are not asked at the moment because their providers fail.
SELECT model, reason, failures, open_until
FROM reflex.circuit
WHERE open_until IS NOT NULL
ORDER BY model
LIMIT %(limit)s

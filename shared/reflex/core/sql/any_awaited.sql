-- Whether any run waits for an event. Where none does, nobody follows the log for them.
SELECT EXISTS (SELECT FROM reflex.awaited) AS any_awaited

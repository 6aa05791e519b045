-- Ask the gateways whether somebody watches. Only those with watchers listen, so that mostly nobody is woken by it.
SELECT pg_notify('reflex_who_watches', '')

-- Whether something died before a moment and is dead still.
SELECT EXISTS (SELECT FROM reflex.dead_letter WHERE died_at < %(before)s ORDER BY died_at)

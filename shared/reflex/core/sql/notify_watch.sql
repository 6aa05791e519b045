-- Tell the workers that somebody watches. Said again every few seconds: who hears it no more stops sending.
SELECT pg_notify('reflex_watch', '')

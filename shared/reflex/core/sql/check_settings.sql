-- Settings of PostgreSQL as they are in this session, and where each comes from. One that this version does not know is
-- left out.
SELECT name, setting AS value, unit, source, context
FROM pg_settings
WHERE name = ANY(%(names)s::text[])

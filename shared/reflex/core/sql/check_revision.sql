-- The revision that `reflex migrate` brought the schema to.
SELECT max(version_num) AS revision
FROM reflex.alembic_version

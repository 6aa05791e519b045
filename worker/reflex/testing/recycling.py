"""Databases that are used again. To make one takes the server tens or hundreds of milliseconds, since it consists of
some four hundred files; to empty one takes a few. It is as good as new if nothing in it has changed but rows."""

from typing import Any, Final

from psycopg import Connection

__all__ = ["emptied", "keep_rows", "shape_of"]

# What was made or altered since, of whatever kind: objects of ours and of the test, and the settings of the database.
SHAPE: Final = """
SELECT md5(string_agg(found, ' ' ORDER BY found))
FROM (
    SELECT concat('class', oid, ':', xmin) AS found FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT concat('attribute', attrelid, '.', attnum, ':', xmin) FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT concat('default', oid, ':', xmin) FROM pg_attrdef
    UNION ALL SELECT concat('constraint', oid, ':', xmin) FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT concat('function', oid, ':', xmin) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT concat('type', oid, ':', xmin) FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT concat('trigger', oid, ':', xmin) FROM pg_trigger
    UNION ALL SELECT concat('policy', oid, ':', xmin) FROM pg_policy
    UNION ALL SELECT concat('schema', oid, ':', xmin) FROM pg_namespace
    UNION ALL SELECT concat('extension', oid, ':', xmin) FROM pg_extension
    UNION ALL SELECT concat('event trigger', oid, ':', xmin) FROM pg_event_trigger
    UNION ALL SELECT concat('large object', oid, ':', xmin) FROM pg_largeobject_metadata
    UNION ALL SELECT concat('setting', setrole, setconfig)
              FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
              WHERE datname = current_database()
) AS objects
"""
# Partitions go with their table.
TABLES: Final = """
SELECT format('%I.%I', nspname, relname)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p') AND NOT relispartition AND nspname IN ('reflex', 'reflex_clock')
"""
# A database has some rows from the beginning.
KEEP: Final = """
CREATE SCHEMA reflex_kept;
DO $do$
DECLARE
    name text;
    has_rows boolean;
BEGIN
    FOR name IN <tables> LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', name) INTO has_rows;
        IF has_rows THEN
            EXECUTE format('CREATE TABLE reflex_kept.%I AS TABLE %s', name, name);
        END IF;
    END LOOP;
    CREATE TABLE reflex_kept.sequence AS
    SELECT format('%I.%I', schemaname, sequencename)::regclass AS name, coalesce(last_value, start_value) AS value,
           last_value IS NOT NULL AS is_called
    FROM pg_sequences;
END $do$;
""".replace("<tables>", TABLES)
EMPTY: Final = """
SET session_replication_role = replica;
DO $do$
DECLARE
    name text;
BEGIN
    FOR name IN <tables> LOOP
        EXECUTE format('DELETE FROM %s', name);
    END LOOP;
    FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'reflex_kept'::regnamespace AND relname <> 'sequence'
                AND relkind = 'r' LOOP
        EXECUTE format('INSERT INTO %s OVERRIDING SYSTEM VALUE TABLE reflex_kept.%I', name, name);
    END LOOP;
    PERFORM setval(sequence.name, value, is_called) FROM reflex_kept.sequence;
END $do$;
""".replace("<tables>", TABLES)


def keep_rows(conn: Connection[Any]) -> None:
    """Write down in a migrated database what rows it has, before it is copied."""
    conn.execute(KEEP.encode())


def shape_of(conn: Connection[Any]) -> str:
    """What a database consists of but for rows: that of two copies is the same."""
    row = conn.execute(SHAPE.encode()).fetchone()
    assert row is not None
    return row[0]


def emptied(conn: Connection[Any], shape: str) -> bool:
    """Make a copy as it was when it was made; False, if more than rows is different: then nothing is done.

    Raises:
        psycopg.Error: This role may not.
    """
    if shape_of(conn) != shape:
        return False
    conn.execute(EMPTY.encode())
    return True

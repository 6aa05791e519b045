"""Alembic's entry point. The database is DATABASE_URL, or the connection `reflex migrate` passes in."""

import os
from functools import partial

import sqlalchemy as sa
from alembic import context

from reflex.core.migrate import connect_directly
from reflex.core.schema import metadata

# Two `alembic upgrade head` at once (several replicas starting) take turns instead of failing.
ADVISORY_LOCK = 7_305_412_001


def run(connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
    connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS reflex"))
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            version_table_schema="reflex",
            include_schemas=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()


if context.is_offline_mode():
    raise SystemExit("offline mode is not supported: set DATABASE_URL and run against the database")

given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = context.config.get_main_option("sqlalchemy.url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("DATABASE_URL is not set: it names the database to migrate")
    # Connected by libpq's rules, not by SQLAlchemy's: those know no list of hosts with ports.
    engine = sa.create_engine("postgresql+psycopg://", creator=partial(connect_directly, url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        run(connection)

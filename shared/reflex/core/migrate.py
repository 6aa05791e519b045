"""Bring a database to the newest schema: `alembic upgrade head`, from a checkout or from an installed wheel."""

from pathlib import Path

import psycopg

from reflex.core.database import conninfo, describe
from reflex.core.errors import ConfigurationError, DatabaseUnavailable
from reflex.core.pooler import BACKEND, is_other_backend

__all__ = ["HEAD", "connect_directly", "current_revision", "upgrade"]

# What `reflex migrate` brings a database to. A test compares it with the newest file in migrations/versions.
HEAD = "0022"


def script_location() -> Path:
    """The migrations folder: inside the installed wheel, else at the root of the checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "migrations", here.parents[3] / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigurationError("the migrations are not installed beside reflex.core; reinstall reflex-fleet-core")


def current_revision(url: str) -> str | None:
    """The revision a database is at; None if Reflex was never migrated into it.

    Raises:
        DatabaseUnavailable: It cannot be reached.
    """
    try:
        with psycopg.connect(conninfo(url, name="reflex migrate"), autocommit=True) as conn:
            row = conn.execute("SELECT to_regclass('reflex.alembic_version') IS NOT NULL").fetchone()
            if not (row and row[0]):
                return None
            found = conn.execute("SELECT version_num FROM reflex.alembic_version").fetchone()
            return str(found[0]) if found else None
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"cannot reach PostgreSQL at {describe(url)}: {error}") from error


def upgrade(url: str, revision: str = "head") -> None:
    """Upgrade. Several at once take turns. A database that is already there is left alone, without loading Alembic.

    Raises:
        DatabaseUnavailable: It cannot be reached.
        ConfigurationError: The address is that of a connection pooler.
    """
    if current_revision(url) == HEAD and revision == "head":
        return
    import sqlalchemy as sa
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(script_location()))
    # Connected by libpq's rules, not by SQLAlchemy's: those know no list of hosts with ports.
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: connect_directly(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def connect_directly(url: str) -> psycopg.Connection:
    """A connection on which a lock lasts over several transactions.

    Raises:
        ConfigurationError: The address is that of a connection pooler.
    """
    conn = psycopg.connect(conninfo(url, name="reflex migrate"))
    if is_other_backend(conn, conn.execute(BACKEND).fetchone()):
        conn.close()
        raise ConfigurationError(
            f"{describe(url)} is a connection pooler, through which a database cannot be migrated: set "
            "REFLEX_DIRECT_URL to the address of PostgreSQL itself"
        )
    conn.rollback()
    return conn

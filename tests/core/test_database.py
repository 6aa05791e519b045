"""Addresses of databases."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from reflex.core.database import brief_transaction, connect, conninfo, describe, is_connection_error, sqlalchemy_url
from reflex.core.errors import ConfigurationError


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_addresses_as_people_write_them(scheme: str) -> None:
    parts = conninfo_to_dict(conninfo(f"{scheme}://me:pw@db:5433/shop?connect_timeout=9", name="x"))
    assert (parts["host"], parts["port"], parts["dbname"], parts["user"]) == ("db", "5433", "shop", "me")
    assert str(parts["connect_timeout"]) == "9", "what the address says wins over our limits"
    assert parts["application_name"] == "x"
    assert sqlalchemy_url(f"{scheme}://me:pw@db/shop") == "postgresql+psycopg://me:pw@db/shop"


def test_every_connection_has_limits_on_a_dead_path() -> None:
    """Fails if LIMITS is not merged in."""
    assert {"connect_timeout", "tcp_user_timeout", "keepalives_idle"} <= set(
        conninfo_to_dict(conninfo("postgresql://h/d"))
    )


def test_neither_description_nor_error_shows_the_password() -> None:
    assert "secret" not in describe("postgresql://me:secret@db/shop")
    with pytest.raises(ConfigurationError) as error:
        conninfo("postgresql://me:sec ret@db:port/shop?nonsense")
    assert "ret" not in str(error.value).replace("Reflex", "")
    for bare in ("postgresql://me:se@cret@db/shop", "postgresql://me:se@cret,x@db:5432,b:5433/shop"):
        with pytest.raises(ConfigurationError, match="%40") as error:
            describe(bare)
        assert "cret" not in str(error.value)
    assert describe("host=@abstract dbname=shop") == "@abstract:5432/shop"


def test_what_waiting_may_help_is_told_from_what_it_does_not() -> None:
    assert is_connection_error(psycopg.errors.AdminShutdown())
    assert is_connection_error(psycopg.errors.TooManyConnections())
    assert is_connection_error(psycopg.errors.DiskFull())
    assert is_connection_error(ConnectionResetError())
    assert is_connection_error(psycopg.OperationalError("server closed the connection unexpectedly"))
    assert not is_connection_error(psycopg.errors.UniqueViolation())
    assert not is_connection_error(psycopg.errors.UndefinedTable())
    assert not is_connection_error(ValueError())


async def test_a_brief_transaction_is_ended_by_the_server_when_its_client_stands_still(database_url: str) -> None:
    """Fails if the limit is not set, or stays with the connection."""
    async with await connect(database_url, name="test") as conn:
        asked = "SHOW idle_in_transaction_session_timeout"
        before = await (await conn.execute(asked)).fetchone()
        async with brief_transaction(conn):
            assert await (await conn.execute(asked)).fetchone() == ("5s",)
        assert await (await conn.execute(asked)).fetchone() == before != ("5s",)

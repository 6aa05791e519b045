"""Settings of PostgreSQL as the sessions of Reflex have them, and the statement that undoes one where it was made."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection, sql

from reflex.core.checks.checkup import Installation
from reflex.core.reads import fetch

__all__ = ["RoleSetting", "Setting", "cure", "identifier", "read_role_settings", "read_settings_of_server"]

RESTART: Final = "Then restart gateways and workers: a connection keeps what it began with."
UNITS_S: Final = {"ms": 0.001, "s": 1.0, "min": 60.0}
UNITS_BYTES: Final = {"B": 1, "kB": 1024, "8kB": 8192, "MB": 1024**2}


class Setting(NamedTuple):
    """A row of pg_settings. `source` and `context` are PostgreSQL's own words."""

    name: str
    value: str
    unit: str | None
    source: str
    context: str

    @property
    def is_off(self) -> bool:
        return self.value == "off"

    @property
    def length_s(self) -> float:
        """Of one that is a length of time."""
        return float(self.value) * UNITS_S[self.unit or "ms"]

    @property
    def bytes(self) -> int:
        """Of one that is a size."""
        return int(self.value) * UNITS_BYTES[self.unit or "B"]

    def is_made_by(self, setting: "RoleSetting", account: str) -> bool:
        """Whether that is where this one comes from."""
        match self.source:
            case "global":
                return setting.database is None and setting.role is None
            case "database":
                return setting.database is not None and setting.role is None
            case "user":
                return setting.database is None and setting.role == account
            case "database user":
                return setting.database is not None and setting.role == account
            case _:
                return False


class RoleSetting(NamedTuple):
    """What ALTER ROLE or ALTER DATABASE has set; None for all roles, or all databases."""

    name: str
    value: str
    database: str | None
    role: str | None

    @property
    def whose(self) -> str:
        role = f"role {self.role}" if self.role else "all roles"
        return f"{role} in database {self.database}" if self.database else role

    @property
    def reset(self) -> str:
        """The statement that takes it back."""
        if self.role is None and self.database is not None:
            return f"ALTER DATABASE {identifier(self.database)} RESET {self.name};"
        role = "ALL" if self.role is None else identifier(self.role)
        within = f" IN DATABASE {identifier(self.database)}" if self.database else ""
        return f"ALTER ROLE {role}{within} RESET {self.name};"


async def read_settings_of_server(conn: AsyncConnection[Any], names: Sequence[str]) -> dict[str, Setting]:
    """By name; those that this version of PostgreSQL does not know are left out."""
    rows = await fetch(conn, "check_settings", {"names": list(names)})
    return {row["name"]: Setting(**row) for row in rows}


async def read_role_settings(conn: AsyncConnection[Any], names: Sequence[str]) -> list[RoleSetting]:
    return [RoleSetting(**row) for row in await fetch(conn, "check_role_settings", {"names": list(names)})]


def cure(installation: Installation, setting: Setting, value: str) -> list[str]:
    """The statements, or the sentence, that give the setting that value for new sessions, where it was set."""
    name, account, database = setting.name, installation.account, installation.database
    places = {
        "global": RoleSetting(name, "", None, None),
        "database": RoleSetting(name, "", database, None),
        "user": RoleSetting(name, "", None, account),
        "database user": RoleSetting(name, "", database, account),
    }
    if setting.source in places:
        return [places[setting.source].reset, RESTART]
    match setting.source:
        case "client" | "session":
            return [f"Take {name} out of the options in DATABASE_URL, or out of PGOPTIONS. {RESTART}"]
        case "command line":
            return [f"Take {name} off the command that starts PostgreSQL, or write {name}={value} there; restart it."]
        case _:
            pass
    statement = f"ALTER SYSTEM SET {name} = {value};"
    if setting.context == "postmaster":
        return [f"{statement}  -- and restart PostgreSQL"]
    return [f"{statement} SELECT pg_reload_conf();"]


def identifier(name: str) -> str:
    """A name as SQL has it."""
    return sql.Identifier(name).as_string()

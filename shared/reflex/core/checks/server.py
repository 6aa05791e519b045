"""What else PostgreSQL is set to: whether it takes writes, what it needs to stay fast, and whom it cuts off."""

from typing import Final, NamedTuple

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, seconds
from reflex.core.checks.server_settings import Setting, cure, identifier, read_settings_of_server
from reflex.core.reads import fetch

__all__ = ["SERVER", "TIMEOUTS"]

MIB: Final = 1024**2
# The size that PostgreSQL has by default, and how much larger than it the data may be before somebody should know.
DEFAULT_BUFFERS: Final = 128 * MIB
MANY_TIMES: Final = 8
DEFAULT_LOCKS: Final = 64

NAMES: Final = (
    "autovacuum", "track_counts", "default_transaction_isolation", "default_transaction_read_only", "shared_buffers",
    "max_locks_per_transaction",
)  # fmt: skip


class Server(NamedTuple):
    """The row of check_server."""

    in_recovery: bool
    encoding: str
    bytes: int


async def look_at_server(installation: Installation) -> Looked:
    conn = installation.connection
    settings = await read_settings_of_server(conn, NAMES)
    server = Server(**(await fetch(conn, "check_server", {}))[0])
    problems = [
        *judge_writing(installation, settings, server),
        *judge_upkeep(installation, settings),
        *judge_memory(installation, settings, server),
    ]
    buffers = settings["shared_buffers"].bytes // MIB
    return Looked(f"takes writes, {server.bytes // MIB:,} MiB of data, shared_buffers {buffers:,} MiB", problems)


def judge_writing(installation: Installation, settings: dict[str, Setting], server: Server) -> list[Problem]:
    """Whether transactions do what the statements of Reflex expect."""
    problems: list[Problem] = []
    if server.in_recovery:
        problems.append(
            Problem(
                Level.ERROR,
                "this server is a standby: it takes no writes",
                "Gateways answer 503, and workers cannot claim.",
                ["List all hosts in DATABASE_URL, and add ?target_session_attrs=read-write",
                 "If the primary is gone for good: SELECT pg_promote();  -- here; docs/guides/deploying.md"],
            )
        )  # fmt: skip
    read_only, isolation = settings["default_transaction_read_only"], settings["default_transaction_isolation"]
    if not read_only.is_off and not server.in_recovery:
        problems.append(
            Problem(
                Level.ERROR,
                "default_transaction_read_only is on",
                "Gateways answer 503, and workers cannot claim.",
                cure(installation, read_only, "off"),
            )
        )
    if isolation.value != "read committed":
        problems.append(
            Problem(
                Level.ERROR,
                f"default_transaction_isolation is {isolation.value}",
                "Claims that meet at the same rows fail where they should pass each other by, and are tried again and "
                "again.",
                cure(installation, isolation, "'read committed'"),
            )
        )
    if server.encoding != "UTF8":
        problems.append(
            Problem(
                Level.ERROR,
                f"the database is written in {server.encoding}, not in UTF8",
                "Events with characters that it does not have cannot be stored.",
                ["CREATE DATABASE new_name ENCODING 'UTF8' TEMPLATE template0;",
                 "Then dump this one, restore it there, and point DATABASE_URL to it."],
            )
        )  # fmt: skip
    return problems


def judge_upkeep(installation: Installation, settings: dict[str, Setting]) -> list[Problem]:
    """Whether rows that went are ever cleared away."""
    problems = [
        Problem(
            Level.ERROR,
            f"{name} is off: nothing vacuums the tables",
            "Each delivery is inserted and deleted; claims step over what is left of all that ever were, and get "
            "slower every hour.",
            cure(installation, settings[name], "on"),
        )
        for name in ("autovacuum", "track_counts")
        if settings[name].is_off
    ]
    locks = settings["max_locks_per_transaction"]
    if int(locks.value) < DEFAULT_LOCKS:
        problems.append(
            Problem(
                Level.WARNING,
                f"max_locks_per_transaction is {locks.value}, less than PostgreSQL's default",
                'A migration, or a dump, holds a lock on each table and index, and fails with "out of shared memory".',
                cure(installation, locks, str(DEFAULT_LOCKS)),
            )
        )
    return problems


def judge_memory(installation: Installation, settings: dict[str, Setting], server: Server) -> list[Problem]:
    buffers = settings["shared_buffers"]
    if buffers.bytes > DEFAULT_BUFFERS or server.bytes < MANY_TIMES * buffers.bytes:
        return []
    return [
        Problem(
            Level.WARNING,
            f"shared_buffers is {buffers.bytes // MIB:,} MiB, and the database has {server.bytes // MIB:,} MiB",
            "PostgreSQL's default is for small machines: what is busy should fit, or it is read again and again.",
            [*cure(installation, buffers, "'1GB'"), "About a quarter of the machine's memory is usual."],
        )
    ]


class Limit(NamedTuple):
    """A time limit of sessions: shorter than `least_s` it hits what Reflex does; 0 is none."""

    name: str
    least_s: float
    means: str


# No statement of Reflex takes long but those of `reflex migrate` and `reflex prune`; connections stand still for long.
LIMITS: Final = (
    Limit("idle_session_timeout", 3600,
          "Connections of gateways and workers stand still in between: listeners, pools. Each one that is cut is made "
          "anew, with an error in the log, and hears nothing meanwhile."),
    Limit("statement_timeout", 30,
          "`reflex migrate`, pruning and the rescue of a large backlog may take longer, and never get done."),
    Limit("transaction_timeout", 60,
          "Migrations and transactional tools may take longer; their connection is cut, and the run has failed."),
    Limit("lock_timeout", 5,
          "Lanes and budgets wait for each other for moments; a run that is busy elsewhere makes them fail."),
    Limit("idle_in_transaction_session_timeout", 10,
          "A transactional tool that waits for something else is cut off, and the run has failed."),
)  # fmt: skip
FORGOTTEN: Final = "idle_in_transaction_session_timeout"


async def look_at_timeouts(installation: Installation) -> Looked:
    settings = await read_settings_of_server(installation.connection, [limit.name for limit in LIMITS])
    problems = [
        Problem(
            Level.WARNING,
            f"{limit.name} is {seconds(setting.length_s)}, which is short for Reflex",
            limit.means,
            cure(installation, setting, f"'{limit.least_s:.0f}s'"),
        )
        for limit in LIMITS
        if (setting := settings.get(limit.name)) is not None and 0 < setting.length_s < limit.least_s
    ]
    if settings[FORGOTTEN].length_s == 0:
        problems.append(
            Problem(
                Level.NOTE,
                f"{FORGOTTEN} is not set",
                "A transaction that somebody forgot holds vacuum back on the busiest tables for as long as it is open.",
                [f"ALTER DATABASE {identifier(installation.database)} SET {FORGOTTEN} = '60s';"],
            )
        )
    limits = [f"{name} {seconds(setting.length_s)}" for name, setting in settings.items() if setting.length_s]
    return Looked(", ".join(limits) or "PostgreSQL ends no session by itself", problems)


SERVER: Final = Check("server", "does PostgreSQL take writes, and is it kept in order", Need.SERVER, look_at_server)
TIMEOUTS: Final = Check("timeouts", "does PostgreSQL end sessions of Reflex", Need.SERVER, look_at_timeouts)

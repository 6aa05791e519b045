"""Whether what PostgreSQL commits survives a crash, and whether a commit comes back at all."""

import re
from collections.abc import Sequence
from typing import Final

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, number
from reflex.core.checks.server_settings import (
    RoleSetting,
    Setting,
    cure,
    identifier,
    read_role_settings,
    read_settings_of_server,
)
from reflex.core.reads import fetch

__all__ = ["DURABILITY", "standbys_wanted"]

NAMES: Final = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
# Commits that wait for nobody else.
ALONE: Final = ("off", "local")
FOLLOWS: Final = ("sync", "quorum")
LOST: Final = (
    "What was answered with 202 in the last moments before a crash is gone, and runs that had ended are done again: a "
    "promise of Reflex is broken."
)


async def look_at_durability(installation: Installation) -> Looked:
    conn = installation.connection
    settings = await read_settings_of_server(conn, NAMES)
    set_for = await read_role_settings(conn, ["synchronous_commit"])
    standbys = [row["sync_state"] for row in await fetch(conn, "check_standbys", {})]
    problems = [
        *judge_disk(installation, settings),
        *judge_commit(installation, settings, set_for),
        *judge_standbys(installation, settings, standbys),
    ]
    commit, wanted = settings["synchronous_commit"].value, settings["synchronous_standby_names"].value
    waits = f", commits wait for {wanted}" if wanted and commit not in ALONE else ""
    return Looked(f"fsync is on, synchronous_commit is {commit}{waits}", problems)


def judge_disk(installation: Installation, settings: dict[str, Setting]) -> list[Problem]:
    """fsync and full_page_writes."""
    problems: list[Problem] = []
    if settings["fsync"].is_off:
        problems.append(
            Problem(
                Level.ERROR,
                "fsync is off: PostgreSQL does not wait for the disk",
                "After a crash of the machine the database may be damaged beyond repair.",
                cure(installation, settings["fsync"], "on"),
            )
        )
    if settings["full_page_writes"].is_off:
        problems.append(
            Problem(
                Level.WARNING,
                "full_page_writes is off",
                "A page that a crash left half written cannot be repaired. Right only on a file system that never "
                "leaves one, as ZFS.",
                cure(installation, settings["full_page_writes"], "on"),
            )
        )
    return problems


def judge_commit(
    installation: Installation, settings: dict[str, Setting], set_for: Sequence[RoleSetting]
) -> list[Problem]:
    """synchronous_commit: of our sessions, and of the roles that the other processes may have."""
    setting, standbys = settings["synchronous_commit"], settings["synchronous_standby_names"].value
    problems: list[Problem] = []
    if setting.is_off:
        problems.append(
            Problem(
                Level.ERROR, "synchronous_commit is off" + from_where(setting), LOST, cure(installation, setting, "on")
            )
        )
    elif setting.value == "local" and standbys:
        problems.append(
            Problem(
                Level.WARNING,
                "synchronous_commit is local" + from_where(setting) + ": commits do not wait for the standby",
                "After a promotion what the standby had not received is gone.",
                cure(installation, setting, "on"),
            )
        )
    problems += [
        Problem(
            Level.WARNING,
            f"synchronous_commit is off for {other.whose}",
            f"True of every process that connects as that. {LOST}",
            [other.reset],
        )
        for other in set_for
        if other.value == "off" and not setting.is_made_by(other, installation.account)
    ]
    return problems


def from_where(setting: Setting) -> str:
    return {
        "global": " for all roles",
        "database": " for this database",
        "user": " for this role",
        "database user": " for this role in this database",
        "client": " for this connection",
    }.get(setting.source, "")


def judge_standbys(
    installation: Installation, settings: dict[str, Setting], standbys: Sequence[str | None]
) -> list[Problem]:
    """`standbys`: what each of those that follow is for commits, as pg_stat_replication says it."""
    wanted = standbys_wanted(settings["synchronous_standby_names"].value)
    following = sum(state in FOLLOWS for state in standbys)
    if not wanted or settings["synchronous_commit"].value in ALONE or following >= wanted:
        return []
    if None in standbys:
        return [
            Problem(
                Level.NOTE,
                "commits wait for a standby, and whether one follows cannot be seen",
                f"The role {installation.account} may not see what others do.",
                [f"GRANT pg_monitor TO {identifier(installation.account)};"],
            )
        ]
    return [
        Problem(
            Level.ERROR,
            f"commits wait for {number(wanted, 'standby', 'standbys')}, and {following or 'none'} of them follows",
            "Each commit waits until one comes back. Gateways answer 503 after ten seconds, and nothing is settled.",
            [
                "Start the standby again, and see that primary_conninfo has one of these names: "
                + settings["synchronous_standby_names"].value,
                "Or, if it is gone for good: ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf();",
            ],
        )
    ]


def standbys_wanted(names: str) -> int:
    """How many standbys a commit waits for: `FIRST 2 (a, b, c)`, `ANY 1 (a, b)`, `2 (a, b)`, or `a, b` for one."""
    if not names.strip():
        return 0
    found = re.match(r"\s*(?:FIRST\s+|ANY\s+)?([0-9]+)\s*\(", names, re.IGNORECASE)
    return int(found[1]) if found else 1


DURABILITY: Final = Check("durability", "does what is committed survive a crash", Need.SERVER, look_at_durability)

"""The settings as this environment has them: misspelt variables, values that make no sense or not beside each other.

Other processes may have other variables: what is said here is true where it is run.
"""

import os
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from dotenv import load_dotenv
from pydantic import ValidationError

from reflex.core.checks.checkup import Check, Installation, Level, Looked, Need, Problem, number
from reflex.core.errors import ConfigurationError
from reflex.core.exposure import check_exposure, is_loopback
from reflex.core.settings import Settings

__all__ = ["SETTINGS", "judge_names", "judge_values", "read_settings"]

PREFIX: Final = "REFLEX_"
WEBHOOKS: Final = "REFLEX_WEBHOOK_"
# Read by others than Settings: webhooks by their name, the supervisor of processes, and docker-compose.yml.
BESIDE: Final = re.compile(r"REFLEX_(WEBHOOK_[A-Z0-9_]+_SECRET|METRICS_FD|STOP_GRACE)")
# A heartbeat is sent four times in a lease timeout, and an answer is waited for at least a second.
LEAST_LEASE_TIMEOUT_S: Final = 4.0


def read_settings() -> tuple[Settings, list[tuple[str, str]]]:
    """The settings, with the default of each that makes no sense; and the variables of those, and what is wrong.

    The environment and `.env` are read as `load_settings` does.
    """
    load_dotenv(Path(".env"))
    try:
        return Settings(), []
    except ValidationError as error:
        wrong = {str(each["loc"][0]): each["msg"] for each in error.errors()}
    fields = {variable_of(name): name for name in Settings.model_fields}
    given: dict[str, Any] = {}
    unread: list[tuple[str, str]] = []
    for name, message in wrong.items():
        variable = name if name.isupper() else variable_of(name)
        given[name] = Settings.model_fields[fields[variable]].default
        unread.append((variable, message))
    return Settings(**given), unread


async def look_at_settings(installation: Installation) -> Looked:
    problems = [
        Problem(
            Level.ERROR,
            f"{variable}: {message}",
            "No gateway or worker starts with it. What is said here is with the default instead.",
            [f"Correct {variable}, or take it away: docs/guides/configuration.md has what may stand there."],
        )
        for variable, message in installation.unread
    ]
    problems += judge_names(os.environ)
    problems += judge_values(installation.settings)
    count = sum(variable_of(name) in os.environ for name in Settings.model_fields)
    return Looked(f"{number(count, 'variable')} set, the rest at the default", problems)


def judge_names(environment: Iterable[str]) -> list[Problem]:
    """Variables that begin like ours and are read by nobody. Their values are not looked at. Pure."""
    known = [variable_of(name) for name in Settings.model_fields]
    problems: list[Problem] = []
    for name in sorted(environment):
        upper = name.upper()  # settings are read in either case
        if not upper.startswith(PREFIX) or upper in known or BESIDE.fullmatch(name):
            continue
        meant = nearest(upper, known)
        cure = f"Rename it to {meant}, or take it away." if meant else "Take it away, or see the list of settings."
        problems.append(
            Problem(
                Level.WARNING,
                f"{name} is no setting" + (f"; {meant} is" if meant else ""),
                "Nothing reads it: what it should set has its default.",
                [cure],
            )
        )
    return problems


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The setting that is probably meant. DATABASE_URL and DEFAULT_MODEL are those without our prefix."""
    if (bare := name.removeprefix(PREFIX)) in known:
        return bare
    # Those of webhooks look like one another.
    cutoff = 0.9 if name.startswith(WEBHOOKS) else 0.75
    found = next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)
    return f"{WEBHOOKS}<NAME>_SECRET" if found is None and name.startswith(WEBHOOKS) else found


def judge_values(settings: Settings) -> list[Problem]:
    """Values that make no sense beside each other, and those that open more than people think. Asks the resolver for
    REFLEX_HOST, nothing else."""
    problems = [judge_access(settings)]
    if settings.direct_url and not settings.database_url:
        problems.append(
            Problem(
                Level.ERROR,
                "REFLEX_DIRECT_URL is set, and DATABASE_URL is not",
                "The former is only for listening and migrating, beside the latter.",
                ["Set DATABASE_URL; without a pooler it is all that is needed."],
            )
        )
    if settings.lease_timeout_s < LEAST_LEASE_TIMEOUT_S:
        problems.append(
            Problem(
                Level.WARNING,
                f"REFLEX_LEASE_TIMEOUT_S is {settings.lease_timeout_s:g}: one slow heartbeat is enough to lose a lease",
                "A worker sends four heartbeats in that time, and waits up to a second for each answer. A worker that "
                "is declared dead stops its runs, and others begin them again.",
                [f"Set REFLEX_LEASE_TIMEOUT_S to {LEAST_LEASE_TIMEOUT_S:g} or more; 10 is the default."],
            )
        )
    for larger, smaller, means in (
        ("max_body_bytes", "max_payload_bytes", "An event whose payload is allowed does not fit into a request."),
        ("max_step_bytes", "max_output_bytes", "A run may return more than the journal takes of one answer or tool."),
    ):
        most, least = getattr(settings, larger), getattr(settings, smaller)
        if most < least:
            problems.append(
                Problem(
                    Level.WARNING,
                    f"{variable_of(larger)} ({most}) is less than {variable_of(smaller)} ({least})",
                    means,
                    [f"Raise {variable_of(larger)}, or lower {variable_of(smaller)}."],
                )
            )
    if settings.ws_idle_s is not None and settings.ws_idle_s <= settings.ws_ping_s:
        problems.append(
            Problem(
                Level.WARNING,
                f"REFLEX_WS_IDLE_S ({settings.ws_idle_s:g}) is not more than REFLEX_WS_PING_S ({settings.ws_ping_s:g})",
                "A WebSocket on which nothing happens is closed before the first ping shows whether its client lives.",
                ["Make REFLEX_WS_IDLE_S a few times REFLEX_WS_PING_S, or leave it out."],
            )
        )
    if settings.keep is None:
        problems.append(
            Problem(
                Level.NOTE,
                "REFLEX_KEEP is not set: every event and run is kept",
                "The database grows until somebody calls `reflex prune`.",
                ["Set REFLEX_KEEP=30d, or as long as you need them, for the workers."],
            )
        )
    return [problem for problem in problems if problem is not None]


def judge_access(settings: Settings) -> Problem | None:
    try:
        check_exposure(settings)
    except ConfigurationError:
        return Problem(
            Level.ERROR,
            f"REFLEX_HOST is {settings.host!r}, which other machines reach, and REFLEX_ACCESS is 'open'",
            "A gateway refuses to start: whoever reaches it could publish, read and operate.",
            [
                "reflex keys create --name WHOSE --scope publish",
                "Then set REFLEX_ACCESS=keys. Or REFLEX_HOST=127.0.0.1; or open-to-all, for everybody there.",
            ],
        )
    if settings.access == "open-to-all" and not is_loopback(settings.host):
        return Problem(
            Level.WARNING,
            f"the gateway lets in whoever reaches {settings.host!r}: REFLEX_ACCESS is 'open-to-all'",
            "Everybody there may publish, read every event and operate. Right only if a network or a proxy in front "
            "keeps others out.",
            ["reflex keys create --name WHOSE --scope publish", "REFLEX_ACCESS=keys"],
        )
    return None


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"{PREFIX}{name.upper()}"


SETTINGS: Final = Check("settings", "do the variables of this environment make sense", Need.NOTHING, look_at_settings)

"""What `reflex doctor` prints: a line a check, and the problems with what to do about them, the worst first."""

import os
from collections.abc import Sequence
from textwrap import wrap
from typing import Final

import typer

from reflex.cli.connecting import database_url
from reflex.cli.tables import print_json
from reflex.core.checks.catalogue import CHECKS, examine, names
from reflex.core.checks.checkup import Check, Checkup, Installation, Level, Problem, severity
from reflex.core.checks.variables import read_settings
from reflex.core.errors import ConfigurationError
from reflex.core.settings import Settings

__all__ = ["chosen", "diagnose", "is_wrong", "print_checks"]

MARKS: Final = {Level.OK: "✓", Level.NOTE: "·", Level.UNKNOWN: "?", Level.WARNING: "!", Level.ERROR: "✗"}
# For a terminal whose encoding has none of these.
PLAIN_MARKS: Final = {**MARKS, Level.OK: "+", Level.NOTE: ".", Level.ERROR: "x"}
COLOURS: Final = {Level.OK: "32", Level.NOTE: "2", Level.UNKNOWN: "35", Level.WARNING: "33", Level.ERROR: "31"}
WIDTH: Final = max(map(len, names()))
LINE: Final = 100


def chosen(only: Sequence[str]) -> list[Check]:
    """The checks of these names, in the order of the catalogue; all, if there are none.

    Raises:
        ConfigurationError: There is no check of a name.
    """
    wanted = [name for each in only for name in each.split(",") if name]
    for name in wanted:
        if name not in names():
            raise ConfigurationError(f"there is no check {name[:80]!r}; there are: {', '.join(names())}")
    return [check for check in CHECKS if not wanted or check.name in wanted]


def print_checks(checks: Sequence[Check], *, as_json: bool) -> None:
    """Their names, and what each asks."""
    if as_json:
        print_json({"checks": [{"name": check.name, "asks": check.asks} for check in checks]})
        return
    for check in checks:
        typer.echo(f"{check.name:<{WIDTH}}  {check.asks}")


async def diagnose(checks: Sequence[Check], *, as_json: bool) -> list[Checkup]:
    """Make the checks and print what they come to."""
    settings, unread = read_settings()
    installation = Installation(settings, address(settings), unread)
    marks = Marks()
    made: list[Checkup] = []
    hindered: list[Checkup] = []
    async for checkup in examine(installation, checks):
        made.append(checkup)
        if as_json:
            continue
        if hindered and checkup.says != hindered[0].says:
            print_hindered(hindered, marks)
            hindered = []
        if checkup.hindered:
            hindered.append(checkup)
        else:
            print_line(checkup.level, checkup.name, checkup.says, marks)
    if as_json:
        print_json({"ok": not is_wrong(made, strict=False), "checks": [shown(checkup) for checkup in made]})
        return made
    print_hindered(hindered, marks)
    found = [(checkup.name, problem) for checkup in made for problem in checkup.problems]
    for name, problem in sorted(found, key=lambda pair: -severity(pair[1].level)):
        print_problem(name, problem, marks)
    typer.echo(f"\n{summary(made)}")
    return made


def address(settings: Settings) -> str | None:
    """Of the database; None if there is none to look at."""
    try:
        return database_url(settings)
    except ConfigurationError:
        return None


def is_wrong(made: Sequence[Checkup], *, strict: bool) -> bool:
    """Whether there is an error; `strict`: or a warning, or something that could not be looked at."""
    bad = {Level.ERROR, Level.WARNING, Level.UNKNOWN} if strict else {Level.ERROR}
    return any(checkup.level in bad or any(problem.level in bad for problem in checkup.problems) for checkup in made)


def shown(checkup: Checkup) -> dict[str, object]:
    """A checkup as programs get it."""
    return {"name": checkup.name, "level": checkup.level, "says": checkup.says, "problems": checkup.problems}


class Marks:
    """The sign in front of a line, in colour on a terminal."""

    def __init__(self) -> None:
        stream = typer.get_text_stream("stdout")
        self._coloured = stream.isatty() and "NO_COLOR" not in os.environ
        try:
            "".join(MARKS.values()).encode(stream.encoding or "ascii")
            self._marks = MARKS
        except UnicodeEncodeError:
            self._marks = PLAIN_MARKS

    @property
    def are_drawn(self) -> bool:
        """Whether the terminal has signs beyond ASCII."""
        return self._marks is MARKS

    def of(self, level: Level) -> str:
        mark = self._marks[level]
        return f"\x1b[{COLOURS[level]}m{mark}\x1b[0m" if self._coloured else mark


def print_line(level: Level, name: str, says: str, marks: Marks) -> None:
    typer.echo(f"{marks.of(level)} {name:<{WIDTH}}  {says}")


def print_hindered(checkups: Sequence[Checkup], marks: Marks) -> None:
    """Checks that were not made for the same reason, on one line."""
    if checkups:
        name = checkups[0].name if len(checkups) == 1 else f"{len(checkups)} checks"
        print_line(checkups[0].level, name, checkups[0].says, marks)


def print_problem(name: str, problem: Problem, marks: Marks) -> None:
    """What it is, what comes of it, and what to do: the last unbroken, to be copied."""
    typer.echo(f"\n{marks.of(problem.level)} {name}: {problem.says}")
    for line in wrap(problem.means, LINE - 4, break_long_words=False, break_on_hyphens=False):
        typer.echo(f"    {line}")
    for line in problem.cure:
        typer.echo(f"  → {line}" if marks.are_drawn else f"  > {line}")


def summary(made: Sequence[Checkup]) -> str:
    problems = [problem.level for checkup in made for problem in checkup.problems]
    unknown = sum(checkup.level is Level.UNKNOWN for checkup in made)
    counted = [
        (problems.count(Level.ERROR), "error", "errors"),
        (problems.count(Level.WARNING), "warning", "warnings"),
        (unknown, "check that could not be made", "checks that could not be made"),
        (problems.count(Level.NOTE), "note", "notes"),
    ]
    found = [f"{count} {one if count == 1 else more}" for count, one, more in counted if count]
    return ", ".join(found) if found else "Nothing is wrong."

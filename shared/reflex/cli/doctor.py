"""`reflex doctor`: the command. What it does is in `diagnosis`, which takes longer to import than `--help` may."""

from typing import Annotated

import typer

__all__ = ["doctor"]


def doctor(
    only: Annotated[
        list[str] | None, typer.Option(help="One check, by its name; give it again for more.", metavar="NAME")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for a warning too, and for what could not be looked at.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Only say which checks there are.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document instead of lines.")] = False,
) -> None:
    """Look at this installation and say what is wrong, and what to do about it. It changes nothing.

    Exits with 1 if something is wrong. It says what it can without a database.
    """
    import asyncio

    from reflex.cli.diagnosis import chosen, diagnose, is_wrong, print_checks

    if list_:
        print_checks(chosen(only or ()), as_json=json)
        return
    made = asyncio.run(diagnose(chosen(only or ()), as_json=json))
    raise typer.Exit(1 if is_wrong(made, strict=strict) else 0)

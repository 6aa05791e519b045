"""Lengths of time as people write them: `15m`, `2h`, `30d`."""

import re
from datetime import timedelta
from typing import Final

__all__ = ["parse_duration", "written"]

DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
UNITS: Final = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str) -> timedelta | None:
    """None if it is written otherwise."""
    found = DURATION.fullmatch(text)
    return timedelta(**{UNITS[found[2]]: int(found[1])}) if found else None


def written(length: timedelta) -> str:
    """As people write it: in the largest unit that leaves no rest."""
    ms = length // timedelta(milliseconds=1)
    sizes = {unit: timedelta(**{name: 1}) // timedelta(milliseconds=1) for unit, name in UNITS.items()}
    unit = next(unit for unit in reversed(sizes) if ms % sizes[unit] == 0)
    return f"{ms // sizes[unit]}{unit}"

"""How fast deliveries are made where their number is bounded: in portions that are a pause apart."""

import math
import re
from dataclasses import dataclass
from typing import Final, Self

from reflex.core.pages import QueryRejected

__all__ = ["PORTION", "Pace"]

# Events that one statement looks at. Lanes are locked, and a worker's NOTIFY waits, until it commits.
PORTION: Final = 500
RATE: Final = re.compile(r"([0-9]{1,6})(?:/([smh]))?")
SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Pace:
    """At most `most` deliveries in one portion, and `pause_s` seconds from its end to the beginning of the next one.

    So there are never more portions in a second, a minute or an hour than pauses fit into it.
    """

    most: int = PORTION
    pause_s: float = 0.0

    @classmethod
    def parse(cls, text: str, *, field: str) -> Self:
        """Read a rate: `50/s`, `50` for the same, `30/m`, `100/h`.

        Raises:
            QueryRejected: It is written otherwise, or is nothing at all; `field` names it.
        """
        found = RATE.fullmatch(text)
        if found is None or not (number := int(found[1])):
            raise QueryRejected(f"{text[:80]!r} is no rate; write 50/s, 30/m or 100/h", field=field)
        seconds = SECONDS[found[2] or "s"]
        # As even as a pause of a second, or the portion a commit may be, lets it be.
        most = max(1, number // max(seconds, math.ceil(number / PORTION)))
        return cls(most, seconds / (number // most))

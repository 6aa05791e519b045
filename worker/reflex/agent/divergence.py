"""Divergence: a run that is about to pay for a request although its journal has other ones for the same place.

Each run of an agent has a place in its attempt: inside which tool call, and the how-manieth there. The requests of one
run follow one another, so a request that nobody has answered yet, while answers of its run are left over, cannot be
the continuation of what was recorded. Of runs at other places nothing follows: they may be parallel, or come later.
"""

import json
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, cast

from reflex.agent.journal import current_call
from reflex.core.journal import Step, StepKind

__all__ = ["Course", "Diverged", "WhenDiverged", "diverged_of", "placed", "unplaced"]


class WhenDiverged(StrEnum):
    """What becomes of a run that diverges from its journal: it goes on and pays, begins anew, or is dead."""

    CONTINUE = "continue"
    RESTART = "restart"
    DEAD = "dead"


class Diverged(BaseException):
    """Ends a run before it pays. No `Exception`: what authors' code catches are failures of what it called."""

    def __init__(self, unused: list[int]) -> None:
        super().__init__(
            f"the run diverged from its journal: it would ask the model what was not asked before, while {len(unused)} "
            f"recorded answers, the first of them step {min(unused)}, are left unused. Its code, prompt, tools or "
            "settings changed, or its prompt holds what differs each time, such as the time of day"
        )


class Course:
    """The places of an attempt's runs, and what is recorded for each."""

    def __init__(self) -> None:
        self._runs: Counter[str] = Counter()

    def next_place(self) -> str:
        """The place of a run that begins now."""
        call = current_call()
        inside = (call.key or "") if call is not None else ""
        self._runs[inside] += 1
        return f"{inside}/{self._runs[inside]}"

    def check(self, place: str, left: Iterable[Step]) -> None:
        """A request of the run at this place is due that nobody has answered.

        Args:
            left: The steps that the attempt has not come to so far.

        Raises:
            Diverged: Some of them belong to that run.
        """
        unused = [
            step.position for step in left if step.kind is StepKind.MODEL_REQUEST and unplaced(step.result)[0] == place
        ]
        if unused:
            raise Diverged(unused)


def placed(result: str, place: str | None) -> str:
    """A recorded response with the place of its run; of triggers that go on in any case, without."""
    return result if place is None else f'{{"run":{json.dumps(place)},"messages":{result}}}'


def unplaced(result: str) -> tuple[str | None, str]:
    """The inverse of `placed`: the place, and the response."""
    if not result.startswith('{"run":'):
        return None, result
    place, end = json.JSONDecoder().raw_decode(result, len('{"run":'))
    return cast("str", place), result[end + len(',"messages":') : -1]


def diverged_of(error: BaseException) -> Diverged | None:
    """The divergence with which a run ended, alone or among the failures of a group."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[Any]", error)
        return next((found for inner in group.exceptions if (found := diverged_of(inner)) is not None), None)
    return error if isinstance(error, Diverged) else None

"""What a tool adds to the conversation of its run by `RunContext.enqueue`: kept with the call, and added again by its
replay. Needs pydantic-ai.
"""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_ai.messages import ModelMessage, ModelRequestPart, UserContent
from pydantic_ai.tools import RunContext

from reflex.agent.journal import current_call

__all__ = ["Enqueued", "enqueue_again", "noting"]


@dataclass(frozen=True)
class Enqueued:
    """One call of `enqueue`."""

    content: list[UserContent | ModelRequestPart | ModelMessage]
    priority: Literal["asap", "when_idle"]


class NotingContext(RunContext[Any]):
    """What a tool is given. A class of its own, since toolsets around the tool may copy it."""

    def enqueue(self, *content: Any, priority: Literal["asap", "when_idle"] = "asap") -> str | None:
        """As `RunContext.enqueue`."""
        enqueue_id = super().enqueue(*content, priority=priority)
        if enqueue_id is not None and (call := current_call()) is not None:
            call.enqueued.append(Enqueued([*content], priority))
        return enqueue_id


def noting(run: RunContext[Any]) -> RunContext[Any]:
    """The context for the tool; hooks around it keep the other one, since they run in a replay, too."""
    if type(run) is not RunContext:
        return run
    noted = copy(run)
    noted.__class__ = NotingContext
    return noted


def enqueue_again(run: RunContext[Any], enqueued: Iterable[Enqueued] | None) -> None:
    for each in enqueued or ():
        run.enqueue(*each.content, priority=each.priority)

"""What a tool adds to the conversation of its run, by `enqueue` and `load_capability` of its RunContext: kept with the
call, and added again by its replay. Needs pydantic-ai.
"""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelMessage, ModelRequestPart, UserContent
from pydantic_ai.tools import RunContext

from reflex.agent.journal import current_call

__all__ = ["Enqueued", "Loaded", "enqueue_again", "noting"]


@dataclass(frozen=True)
class Enqueued:
    """One call of `enqueue`."""

    content: list[UserContent | ModelRequestPart | ModelMessage]
    priority: Literal["asap", "when_idle"]


@dataclass(frozen=True)
class Loaded:
    """A call of `load_capability` that had an effect."""

    capability: str


class NotingContext(RunContext[Any]):
    """What a tool is given. A class of its own, since toolsets around the tool may copy it."""

    def enqueue(self, *content: Any, priority: Literal["asap", "when_idle"] = "asap") -> str | None:
        """As `RunContext.enqueue`."""
        enqueue_id = super().enqueue(*content, priority=priority)
        if enqueue_id is not None and (call := current_call()) is not None:
            call.enqueued.append(Enqueued([*content], priority))
        return enqueue_id

    def load_capability(self, capability: str | AbstractCapability[Any]) -> bool:
        """As `RunContext.load_capability`."""
        loaded = super().load_capability(capability)
        if loaded and (call := current_call()) is not None:
            known = capability if isinstance(capability, str) else capability.id
            if known not in self.capabilities:  # one without an id has got one in this run
                known = next(name for name, each in self.capabilities.items() if each is capability)
            call.enqueued.append(Loaded(known))
        return loaded


def noting(run: RunContext[Any]) -> RunContext[Any]:
    """The context for the tool; hooks around it keep the other one, since they run in a replay, too."""
    if type(run) is not RunContext:
        return run
    noted = copy(run)
    noted.__class__ = NotingContext
    return noted


def enqueue_again(run: RunContext[Any], enqueued: Iterable[Enqueued | Loaded] | None) -> None:
    for each in enqueued or ():
        if isinstance(each, Enqueued):
            run.enqueue(*each.content, priority=each.priority)
        elif each.capability in run.capabilities:
            run.load_capability(each.capability)

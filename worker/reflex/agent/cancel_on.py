"""`cancel_on`: the trigger beside a trigger, whose deliveries end those of the other one.

An event that cancels is an event like any other: routed, delivered, tried again, and shown with what came of it.
"""

from typing import TYPE_CHECKING, Any, Final

from reflex.agent.filters import Filter
from reflex.core.errors import ReflexError
from reflex.core.key_cancelling import cancel_key

if TYPE_CHECKING:
    from reflex.agent.context import AgentContext

__all__ = ["SUFFIX", "Canceller", "checked_cancel_on"]

SUFFIX: Final = ".cancel"
LONGEST_NAME: Final = 100 - len(SUFFIX)


class NoQueue(ReflexError):
    """There is nothing to cancel: the run is not in a worker."""

    code = "no_queue"


class Canceller:
    """The agent function of the trigger `<name>.cancel`. A worker runs it whether or not a slot is free: it may be what
    frees one."""

    def __init__(self, trigger: str, key_path: str) -> None:
        self.trigger = trigger
        self.key_path = key_path

    async def __call__(self, ctx: "AgentContext") -> dict[str, Any]:
        """End the deliveries of the trigger that have the event's key. Says how many."""
        if ctx.journal is None:
            raise NoQueue(f"cancel_on of trigger {self.trigger!r} ends deliveries of a worker's database; outside a "
                          "worker there is none")  # fmt: skip
        event_id = ctx.delivery_id.event_id
        by = f"event {ctx.event.type} {event_id}"
        ended = await ctx.journal.ask(
            lambda conn: cancel_key(conn, ctx.delivery_id, trigger=self.trigger, key_path=self.key_path, by=by)
        )
        return ended._asdict()


def checked_cancel_on(name: str, cancel_on: object) -> Filter | None:
    """The filter of what cancels the deliveries of the trigger `name`.

    Raises:
        TypeError: It is no filter; the sentence names the trigger.
        ValueError: It can match nothing, or there is no room for the other trigger's name.
    """
    if cancel_on is None:
        return None
    if not isinstance(cancel_on, Filter):
        raise TypeError(
            f"trigger {name!r}: cancel_on is {cancel_on!r}; make a filter with type_filter(), keyword_filter(), …"
        )
    if not cancel_on.patterns:
        raise ValueError(
            f"trigger {name!r}: cancel_on={cancel_on!r} can match no event: its parts have no event type in common"
        )
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"trigger {name!r}: with cancel_on there is another trigger, {name + SUFFIX!r}, and the names of triggers "
            f"have at most 100 characters; choose one of at most {LONGEST_NAME}"
        )
    return cancel_on

"""What a trigger says about the order of its deliveries, checked."""

from enum import StrEnum
from typing import Any, Final, NamedTuple

from reflex.agent.paths import is_path, perhaps
from reflex.core.lanes import WhenDead

__all__ = ["Ordering", "WhileRunning", "ordering_of"]

OWN_KEY: Final = "key"


class WhileRunning(StrEnum):
    """What becomes of a new event while a run of its key goes on."""

    QUEUE = "queue"  # it waits for its turn
    STEER = "steer"  # the run is told of it as it goes
    INTERRUPT = "interrupt"  # the run is cancelled, and the event's own begins
    COALESCE = "coalesce"  # the next run gets all that has come by then
    DROP = "drop"  # nothing runs for it


class Ordering(NamedTuple):
    """Where events have the key of their order, None if there is no order; and that of what is remembered."""

    key_path: str | None
    when_dead: WhenDead
    remembers_by: str
    while_running: WhileRunning = WhileRunning.QUEUE


def ordering_of(
    name: str,
    *,
    ordered: Any,
    key: Any,
    when_dead: Any,
    has_keys: bool = False,
    while_running: Any = WhileRunning.QUEUE,
) -> Ordering:
    """The ordering of the trigger `name`.

    Args:
        has_keys: Whether it keeps a state or a memory of each key, has a budget of each, or is cancelled by it. Then
            it may name a key without having an order.

    Raises:
        TypeError: An argument is of the wrong kind; the sentence names the trigger.
        ValueError: `key` is no path, `when_dead` or `while_running` is no choice, or one of them is given without
            `ordered`.
    """
    if not isinstance(ordered, bool):
        raise TypeError(f"trigger {name!r}: ordered is {ordered!r}; pass True or False")
    if key is not None and not isinstance(key, str):
        raise TypeError(f"trigger {name!r}: key is {key!r}; pass a path, as in 'payload.conversation_id'")
    if when_dead not in tuple(WhenDead):
        raise ValueError(f"trigger {name!r}: when_dead is {when_dead!r}; it is 'continue' or 'hold'")
    if while_running not in tuple(WhileRunning):
        known = ", ".join(repr(str(each)) for each in WhileRunning)
        raise ValueError(f"trigger {name!r}: while_running is {while_running!r}; it must be one of {known}")
    if not ordered and while_running != WhileRunning.QUEUE:
        raise ValueError(
            f"trigger {name!r}: while_running says what a new event does to the run of its key; pass ordered=True with "
            "it"
        )
    if not ordered:
        given = "key" if key is not None and not has_keys else "when_dead" if when_dead != WhenDead.CONTINUE else None
        if given:
            raise ValueError(f"trigger {name!r}: {given} says how deliveries are ordered; pass ordered=True with it")
    path = checked_path(name, OWN_KEY if key is None else key)
    return Ordering(path if ordered else None, WhenDead(when_dead), path, WhileRunning(while_running))


def checked_path(name: str, path: str) -> str:
    if not is_path(path) or "\x00" in path:
        raise ValueError(
            f"trigger {name!r}: key is {path!r}; write 'key', 'source', or a path such as 'payload.order.id'"
            f"{perhaps(path)}"
        )
    return path

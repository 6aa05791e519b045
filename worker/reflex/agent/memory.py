"""Memory: the messages of a conversation, kept per trigger and key, and how much of them.

pydantic-ai takes two seconds to import; what needs it is in `message_history`, imported by the first run that
remembers.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from reflex.agent.state import KeylessEvent, StateError, look_at_remembered

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.usage import RunUsage

    from reflex.agent.context import AgentContext
    from reflex.core.states import StoredState

__all__ = ["Memory", "RunMemory", "memory_of"]

Summariser: TypeAlias = (
    "str | AbstractAgent[Any, str] | Callable[[AgentContext, list[ModelMessage]], Awaitable[str]] | None"
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Passed to a `Trigger` as `memory`.

    The window begins with something the user said, and ends with the latest turn, which is kept whole even if it is
    longer than the window: a tool call is never parted from what the tool returned.

    Args:
        max_messages: How many messages are kept, requests and responses. None is no limit.
        max_tokens: How many tokens they may have, about: four bytes of JSON count as one. None is no limit.
        summarise: What becomes of messages that fall out of the window. A text is the instructions of a model request
            (by the model of the agent), an agent is asked with what was said as its prompt, an async function gets the
            context and the messages and returns a text. The summary is the first message from then on. The window is
            then cut to half, so that this happens now and then and not with every message.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A limit is less than 2, or no limit is given.
    """

    max_messages: int | None = 50
    max_tokens: int | None = None
    summarise: "Summariser" = None

    def __post_init__(self) -> None:
        for name in ("max_messages", "max_tokens"):
            limit: Any = getattr(self, name)
            if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
                raise TypeError(f"a memory's {name} is a number, or None, not {limit!r}")
            if limit is not None and limit < 2:
                raise ValueError(f"a memory's {name} is {limit}; a question and its answer are two messages")
        if self.max_messages is None and self.max_tokens is None:
            raise ValueError("a memory needs a limit: pass max_messages or max_tokens")
        given: Any = self.summarise
        agent = given is not None and not isinstance(given, str) and hasattr(given, "run")
        function = inspect.unwrap(given) if callable(given) else given
        if not (given is None or isinstance(given, str) or agent or inspect.iscoroutinefunction(function)):
            raise TypeError(
                f"a memory's summarise is {given!r}; pass instructions, a pydantic-ai Agent, or an async function of "
                "the context and the messages"
            )
        if isinstance(given, str) and not given.strip():
            raise ValueError("a memory's summarise is an empty text; write what a summary should keep")


def memory_of(name: str, memory: Any) -> Memory | None:
    """The memory of the trigger `name`; raises TypeError if it is none."""
    if memory is not None and not isinstance(memory, Memory):
        raise TypeError(f"trigger {name!r}: memory is {memory!r}; pass a Memory, as in Memory(max_messages=50)")
    return memory


class RunMemory:
    """What one run sees of the conversation: `ctx.memory`."""

    def __init__(self, trigger: str, declared: Memory, stored: "StoredState") -> None:
        self.declared = declared
        self.cleared = 0
        self.changed = False
        self._trigger = trigger
        self._stored = stored
        self._messages: list[ModelMessage] | None = None
        self._before: RunUsage | None = None  # what the conversation had used up before this run
        self._spent: RunUsage | None = None
        self._in_use = False

    @property
    def messages(self) -> "list[ModelMessage]":
        """The messages so far, oldest first: a copy. What an agent of this run says is there when it has ended.

        Raises:
            KeylessEvent: The event has no key.
            StateUnreadable: pydantic-ai cannot read what is stored.
        """
        look_at_remembered()
        return list(self._loaded())

    @property
    def usage(self) -> "RunUsage":
        """What the whole conversation has used up, with the messages that are forgotten, summaries, and this run.

        Raises:
            KeylessEvent: The event has no key.
            StateUnreadable: pydantic-ai cannot read what is stored.
        """
        look_at_remembered()
        self._loaded()
        assert self._before is not None
        return self._before + self._spent if self._spent is not None else self._before

    def clear(self) -> None:
        """Forget what was said, and its usage. What this run says from here on is remembered.

        Raises:
            KeylessEvent: The event has no key.
        """
        from pydantic_ai.usage import RunUsage

        look_at_remembered()
        self._check_key()
        self._messages, self._before = [], RunUsage()
        self.cleared += 1
        self.changed = True

    def begin(self) -> "list[ModelMessage]":
        """The history for an agent that remembers. One at a time: each of two would not know what the other one says.

        Raises:
            StateError: Another one is at it, or the event has no key.
        """
        messages = self._loaded()
        if self._in_use:
            raise StateError(
                f"trigger {self._trigger!r}: two agents of one run remember at the same time; run one after the other"
            )
        self._in_use = True
        return list(messages)

    def end(self) -> None:
        """Whether it succeeded or not."""
        self._in_use = False

    async def extend(
        self,
        messages: "list[ModelMessage]",
        spent: "Callable[[], RunUsage]",
        summary: "Callable[[list[ModelMessage]], Awaitable[str]]",
    ) -> None:
        """Remember what an agent has said, and forget what falls out of the window.

        Args:
            spent: What the run has used up, asked for when all is done.
            summary: What messages come to, if they are to be summarised.
        """
        from reflex.agent.message_history import shortened

        self._messages = await shortened([*self._loaded(), *messages], self.declared, summary)
        self._spent = spent()
        self.changed = True

    def write(self) -> tuple[str, str]:
        """Messages and usage as JSON text.

        Raises:
            StateError: A message cannot be written as JSON.
        """
        from reflex.agent.message_history import write_messages, write_usage

        return write_messages(self._loaded()), write_usage(self.usage)

    def _loaded(self) -> "list[ModelMessage]":
        self._check_key()
        if self._messages is None:
            from reflex.agent.message_history import read_messages, read_usage

            self._before = read_usage(self._stored.usage)
            self._messages = read_messages(self._stored.messages)
        return self._messages

    def _check_key(self) -> None:
        if self._stored.key is None:
            raise KeylessEvent(f"trigger {self._trigger!r} remembers by key, and this event has none")

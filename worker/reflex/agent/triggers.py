"""Triggers: a filter, an agent, and how to run it. Constructing one registers it with the app being loaded.

pydantic-ai takes two seconds to import, so nothing here imports it: whoever made an `Agent` has done so already.
"""

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeGuard, cast

from reflex.agent.approval_policy import APPROVAL_TIMEOUT, approval_policy
from reflex.agent.budgets import Budget, checked_budgets
from reflex.agent.cancel_on import SUFFIX, Canceller, checked_cancel_on
from reflex.agent.declarations import Declaration, checked_name
from reflex.agent.divergence import WhenDiverged
from reflex.agent.effects import checked_effects
from reflex.agent.filters import Filter, FilterError
from reflex.agent.gathering import When, checked_when
from reflex.agent.memory import Memory, memory_of
from reflex.agent.ordering import WhileRunning, ordering_of
from reflex.agent.state import State, state_of
from reflex.core.events import Event
from reflex.core.retry import RetryPolicy
from reflex.core.spending import Scope

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_ai.agent import AbstractAgent

    from reflex.agent.context import AgentContext

__all__ = ["AgentFunction", "Prompt", "Trigger", "is_model_agent"]

AgentFunction: TypeAlias = "Callable[[AgentContext], Awaitable[Any]]"
Prompt: TypeAlias = "str | Callable[[AgentContext], str | Awaitable[str]]"


class Trigger(Declaration):
    """Runs `agent` for every event that `filter` matches; each match is a delivery of its own.

    Args:
        name: Unique in the app: letters, digits, '.', '_' and '-', at most 100. It identifies the trigger across
            deployments: renaming one makes a new trigger.
        agent: A pydantic-ai `Agent`, or an async function of the `AgentContext`. What it returns is kept as the run's
            output.
        prompt: What a pydantic-ai agent is asked: a text, or a function of the context (async or not). By default
            the event's type and payload as JSON.
        retry: How often a delivery is tried, and how long it waits in between.
        timeout: How long one run may take. None is no limit: a living worker keeps its leases.
        deps: Anything; the agent finds it as `ctx.deps`.
        ordered: Deliveries with the same key run one at a time, in the order in which their events were accepted.
        key: Where an event has its key: `"key"` (the default) or `"source"`, the event's own, or a path below the
            payload such as `"payload.conversation_id"`. Events without a value there are not ordered.
        when_dead: What becomes of a key whose delivery has died: `"continue"` with the next one, or `"hold"` it until
            the dead letter is retried or purged.
        while_running: What a new event does while a run of its key goes on: it waits for its turn (`"queue"`), is told
            to that run (`"steer"`), cancels it (`"interrupt"`), waits for the next run, which gets all that have come
            (`"coalesce"`), or is not run at all (`"drop"`).
        approval_timeout: How long a tool call that has to be approved waits for somebody; then it counts as denied.
        approval_edits: Whether who approves a call may change its arguments.
        budgets: What its agents may spend; a delivery that would spend more is parked.
        effects: What calls of tools do that are not one's own, by the tool's name: `{"charge_card": once(probe=…)}`. It
            wins over what a tool says of itself.
        when_diverged: What becomes of a retry that would ask a model what the attempts before did not ask, since code
            or prompt changed: it goes on and pays (`"continue"`), forgets what is recorded and begins anew
            (`"restart"`), or is a dead letter before it pays (`"dead"`).
        state: What is kept of each key: a pydantic model whose fields all have defaults, or a `State` with a version of
            it. The agent finds it as `ctx.state`.
        memory: How much is kept of the conversation of each key, which a pydantic-ai agent goes on with.
        cancel_on: Events that end what has not ended of their key, by `key`, and was accepted before them. They are
            deliveries of a trigger of its own, `<name>.cancel`.
        when: Events are gathered for one run, which finds them in `ctx.events`: `every_n(…)` of them, or those that
            cross an `error_threshold(…)`.

    Raises:
        TypeError: An argument is of the wrong kind; the sentence names the trigger.
        ValueError: The name cannot be one, the filter matches nothing, the timeout is not positive, `key` is no path,
            something is said about the order of a trigger that is not ordered, or two budgets are for the same.
    """

    __slots__ = (
        "agent", "approvals", "budgets", "cancel_on", "canceller", "deps", "effects", "filter", "key", "memory",
        "ordered", "prompt", "remembers_by", "retry", "state", "timeout", "when", "when_dead", "when_diverged",
        "while_running",
    )  # fmt: skip
    kind: ClassVar = "trigger"

    def __init__(
        self,
        name: str,
        filter: Filter,
        agent: "AbstractAgent[Any, Any] | AgentFunction",
        *,
        prompt: "Prompt | None" = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        deps: Any = None,
        ordered: bool = False,
        key: str | None = None,
        when_dead: Literal["continue", "hold"] = "continue",
        approval_timeout: timedelta = APPROVAL_TIMEOUT,
        approval_edits: bool = False,
        budgets: Sequence[Budget] | None = None,
        effects: Mapping[str, Any] | None = None,
        when_diverged: Literal["continue", "restart", "dead"] = "continue",
        state: "type[BaseModel] | State[Any] | None" = None,
        memory: Memory | None = None,
        cancel_on: Filter | None = None,
        while_running: Literal["queue", "steer", "interrupt", "coalesce", "drop"] = "queue",
        when: When | None = None,
    ) -> None:
        checked_name(self.kind, name)
        self.filter = checked_filter(name, filter, while_running=while_running)
        self.agent = checked_agent(name, agent)
        self.prompt = checked_prompt(name, prompt, agent)
        self.retry = checked_retry(name, retry)
        self.timeout = checked_timeout(name, timeout)
        self.deps = deps
        self.effects = checked_effects(name, effects)
        self.when_diverged = checked_when_diverged(name, when_diverged)
        self.approvals = approval_policy(name, approval_timeout, approval_edits)
        self.budgets = checked_budgets(name, budgets)
        self.state = state_of(name, state)
        self.memory = memory_of(name, memory)
        self.cancel_on = checked_cancel_on(name, cancel_on)
        self.when = checked_when(name, when, ordered=ordered, cancelled=cancel_on is not None)
        has_keys = self.remembers or self.cancel_on is not None or self.counts_keys
        ordering = ordering_of(
            name, ordered=ordered, key=key, when_dead=when_dead, has_keys=has_keys, while_running=while_running
        )
        self.ordered = ordered
        self.key = ordering.key_path
        self.when_dead = ordering.when_dead
        self.remembers_by = ordering.remembers_by
        self.while_running = ordering.while_running
        super().__init__(name)
        self.canceller: Trigger | None = None
        if self.cancel_on is not None:
            self.canceller = Trigger(name + SUFFIX, self.cancel_on, Canceller(name, ordering.remembers_by))
            self.canceller.where += f" (cancel_on of {name!r})"

    @property
    def patterns(self) -> tuple[str, ...]:
        """The event types that can be of interest, sorted."""
        return tuple(sorted(self.filter.patterns))

    @property
    def remembers(self) -> bool:
        """Whether it keeps something of each key, which it finds by the path `remembers_by`."""
        return self.state is not None or self.memory is not None

    @property
    def counts_keys(self) -> bool:
        """Whether it has a budget of each key."""
        return any(budget.scope is Scope.KEY for budget in self.budgets)

    def matches(self, event: Event) -> bool:
        """Whether the event is one for this trigger.

        Raises:
            FilterError: The filter raised; the sentence names the trigger. The run counts as failed.
        """
        try:
            return self.filter(event)
        except FilterError as error:
            raise FilterError(f"trigger {self.name!r}: {error}") from error.__cause__

    def definition(self) -> dict[str, Any]:
        """What people see in the console and on the command line. JSON."""
        return (
            {
                "agent": {
                    "kind": "pydantic-ai" if is_model_agent(self.agent) else "function",
                    "name": agent_name(self.agent),
                },
                "filter": repr(self.filter),
                "retry": {
                    "max_attempts": self.retry.max_attempts,
                    "base_s": self.retry.base.total_seconds(),
                    "cap_s": self.retry.cap.total_seconds(),
                },
                "timeout_s": self.timeout.total_seconds() if self.timeout else None,
                "ordered": self.ordered,
                "key": self.key,
                "when_dead": self.when_dead if self.ordered else None,
            }
            | self.definition_of_steps()
            | self.remembered()
        )

    def definition_of_steps(self) -> dict[str, Any]:
        """What differs from the default."""
        said: dict[str, Any] = {}
        if self.budgets:
            said["budgets"] = [str(budget) for budget in self.budgets]
        if self.counts_keys:
            said["budgets_by"] = self.remembers_by
        if self.effects:
            said["effects"] = {tool: effect.kind for tool, effect in self.effects.items()}
        if self.when_diverged is not WhenDiverged.CONTINUE:
            said["when_diverged"] = self.when_diverged
        if self.cancel_on is not None:
            said["cancel_on"] = repr(self.cancel_on)
        if self.while_running is not WhileRunning.QUEUE:
            said["while_running"] = self.while_running
        if self.when is not None:
            said["when"] = self.when.definition()
        return said

    def remembered(self) -> dict[str, Any]:
        """What is kept of each key, for people; nothing if nothing is."""
        if not self.remembers:
            return {}
        state, memory = self.state, self.memory
        return {
            "remembers_by": self.remembers_by,
            "state": {"model": state.name, "version": state.version} if state is not None else None,
            "memory": None
            if memory is None
            else {
                "max_messages": memory.max_messages,
                "max_tokens": memory.max_tokens,
                "summarises": memory.summarise is not None,
            },
        }

    def __repr__(self) -> str:
        return f"Trigger({self.name!r}, {self.filter!r})"


def is_model_agent(agent: object) -> "TypeGuard[AbstractAgent[Any, Any]]":
    """Whether it is a pydantic-ai agent. Where pydantic-ai was never imported, nothing is one."""
    pydantic_ai_agent = sys.modules.get("pydantic_ai.agent")
    return pydantic_ai_agent is not None and isinstance(agent, pydantic_ai_agent.AbstractAgent)


def agent_name(agent: object) -> str | None:
    """The name of a function, or of a pydantic-ai agent that was given one."""
    if is_model_agent(agent):
        return agent.name
    function = agent.func if isinstance(agent, partial) else inspect.unwrap(agent) if callable(agent) else agent
    return getattr(function, "__qualname__", type(function).__qualname__)


def checked_filter(name: str, filter: object, *, while_running: object) -> Filter:
    if not isinstance(filter, Filter):
        raise TypeError(f"trigger {name!r}: filter is {filter!r}; make one with type_filter(), keyword_filter(), …")
    if not filter.patterns:
        raise ValueError(f"trigger {name!r}: {filter!r} can match no event: its parts have no event type in common")
    if filter.gates and while_running != WhileRunning.QUEUE:
        raise ValueError(
            f"trigger {name!r}: {filter!r} depends on other events, which is asked when a delivery begins, and with "
            f"while_running={while_running!r} events do not all have a run that begins"
        )
    return filter


def checked_agent(name: str, agent: Any) -> Any:
    if is_model_agent(agent):
        return agent
    if inspect.isclass(agent) or not callable(agent):
        raise TypeError(f"trigger {name!r}: agent is {agent!r}; pass a pydantic-ai Agent or an async function")
    function = inspect.unwrap(agent)
    asynchronous = any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004
    if not asynchronous:
        raise TypeError(
            f"trigger {name!r}: {agent_name(agent)} is not an async function; write `async def {agent_name(agent)}"
            "(ctx)`, since a call that blocks would hold up every run of the worker"
        )
    try:
        inspect.signature(agent).bind(None)
    except TypeError as error:
        raise TypeError(f"trigger {name!r}: {agent_name(agent)} is called with the context alone: {error}") from None
    return agent


def checked_prompt(name: str, prompt: Any, agent: object) -> Any:
    if prompt is None or isinstance(prompt, str) or callable(prompt):
        if prompt is not None and not is_model_agent(agent):
            raise TypeError(f"trigger {name!r}: a prompt is for a pydantic-ai Agent; a function finds the event in ctx")
        return prompt
    raise TypeError(f"trigger {name!r}: prompt is {prompt!r}; pass a text or a function of the context")


def checked_timeout(name: str, timeout: object) -> timedelta | None:
    if timeout is None:
        return None
    if not isinstance(timeout, timedelta):
        raise TypeError(f"trigger {name!r}: timeout is {timeout!r}; pass a timedelta, as in timedelta(minutes=5)")
    if timeout <= timedelta(0):
        raise ValueError(f"trigger {name!r}: timeout is {timeout}; it must be longer than nothing, or None")
    return timeout


def checked_when_diverged(name: str, when_diverged: object) -> WhenDiverged:
    if when_diverged not in tuple(WhenDiverged):
        known = ", ".join(repr(str(each)) for each in WhenDiverged)
        raise ValueError(f"trigger {name!r}: when_diverged is {when_diverged!r}; it must be one of {known}")
    return WhenDiverged(cast("str", when_diverged))


def checked_retry(name: str, retry: object) -> RetryPolicy:
    if retry is None:
        return RetryPolicy()
    if not isinstance(retry, RetryPolicy):
        raise TypeError(f"trigger {name!r}: retry is {retry!r}; pass a RetryPolicy, as in RetryPolicy(max_attempts=3)")
    return retry

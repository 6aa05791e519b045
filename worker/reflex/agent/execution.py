"""Running an agent: the prompt, the model, the time limit, and the output as JSON."""

import asyncio
import inspect
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import orjson
from pydantic_core import to_json

from reflex.agent.context import AgentContext
from reflex.agent.failures import Failure, classify
from reflex.agent.models import Models
from reflex.agent.run_time import RunTime, run_time
from reflex.agent.suspension import suspend
from reflex.agent.triggers import Trigger, is_model_agent
from reflex.core.errors import ReflexError
from reflex.core.events import BaseEvent
from reflex.core.json_text import without_nul

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.run import AgentRunResult

__all__ = [
    "AgentExited",
    "Execution",
    "Failure",
    "OutputError",
    "RunTimeout",
    "classify",
    "run_agent",
    "run_model_agent",
    "usage_of",
]

OutputT = TypeVar("OutputT")
COUNTED: Final = ("requests", "tool_calls", "input_tokens", "output_tokens")
COUNTED_IF_ANY: Final = ("cache_read_tokens", "cache_write_tokens", "output_reasoning_tokens", "unmeasured_requests")


class OutputError(ReflexError):
    """What the agent returned cannot be kept. Final: a retry would do and pay everything again for the same end."""

    code = "output"


class RunTimeout(ReflexError):
    """The run took longer than its trigger allows."""

    code = "timeout"


class AgentExited(ReflexError):
    """The agent's code ended with something that is no error: `sys.exit()`, or a cancellation of its own making."""

    code = "exited"


@dataclass(frozen=True, slots=True)
class Execution:
    """What came of a run that succeeded. Both are JSON-able: the output as text, None if there was none."""

    output_json: str | None
    usage: dict[str, Any] | None


async def run_agent(trigger: Trigger, ctx: AgentContext, models: Models | None = None) -> Execution:
    """Run the trigger's agent once. Afterwards the context takes no more events.

    Raises:
        RunTimeout: The trigger's timeout has passed.
        OutputError: The output is no JSON, or too large.
        Exception: Whatever the agent raised.
    """
    ctx.models = models or Models()
    ctx.approvals = trigger.approvals
    if trigger.timeout is not None:
        ctx.deadline = datetime.now(UTC) + trigger.timeout
    try:
        output = await guarded(trigger, output_of(trigger, ctx))
        return Execution(output_json(output, ctx.limits.max_output_bytes), usage_of(ctx))
    finally:
        ctx.finished = True


async def output_of(trigger: Trigger, ctx: AgentContext) -> Any:
    incoming, options = ctx.incoming, dict[str, Any]()
    if incoming is not None and incoming.coalesces:
        await incoming.begin()
    if is_model_agent(trigger.agent):
        prompt = await prompt_of(trigger, ctx)
        if incoming is not None and not incoming.coalesces:
            from reflex.agent.steering import Steering

            options["capabilities"] = [Steering(incoming)]
        return await run_model_agent(trigger.agent, ctx, prompt, memory=trigger.memory is not None, **options)
    return await trigger.agent(ctx)


async def guarded(trigger: Trigger, work: Awaitable[Any]) -> Any:
    """The time limit, and a wall around two exceptions that would be taken for the worker's own."""
    clock = asyncio.timeout(trigger.timeout.total_seconds()) if trigger.timeout is not None else None
    mine = RunTime(inf)
    try:
        if clock is None:
            return await work
        async with clock:
            mine.ends_at = clock.when() or inf
            token = run_time.set(mine)
            try:
                return await work
            finally:
                run_time.reset(token)  # the next delivery of a lane may run in the same task
    except TimeoutError as error:
        if clock is None or not clock.expired():
            raise
        if mine.wait is not None:
            suspend(mine.wait)
        raise RunTimeout(f"it took longer than {trigger.timeout}, the timeout of trigger {trigger.name!r}") from error
    except SystemExit as error:
        # asyncio lets this one through to the event loop: one event would end the worker.
        raise AgentExited(f"the agent called sys.exit({error.code!r})") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise AgentExited("the agent awaited something that had been cancelled, though its run was not") from error


async def run_model_agent(
    agent: "AbstractAgent[Any, OutputT]",
    ctx: AgentContext,
    prompt: str | None,
    *,
    memory: bool = False,
    **options: Any,
) -> "AgentRunResult[OutputT]":
    """Run a pydantic-ai agent with the context as its deps; count its usage whether or not it succeeds.

    Args:
        memory: Go on with the conversation that the trigger remembers.
    """
    if memory:
        from reflex.agent.message_history import remembering

        return await remembering(agent, ctx, prompt, options)
    from reflex.agent.durable_agent import DurableAgent

    return await DurableAgent(agent, ctx).run(prompt_about(ctx) if prompt is None else prompt, **options)


async def prompt_of(trigger: Trigger, ctx: AgentContext) -> str:
    if trigger.prompt is None or isinstance(trigger.prompt, str):
        return await prompt_of_all(ctx) if trigger.prompt is None else trigger.prompt
    prompt = trigger.prompt(ctx)
    if inspect.isawaitable(prompt):
        prompt = await cast("Awaitable[str]", prompt)
    if not isinstance(prompt, str):
        raise TypeError(f"the prompt of trigger {trigger.name!r} returned {prompt!r}, not a text")
    return prompt


async def prompt_of_all(ctx: AgentContext) -> str:
    """The default prompt; of a run that coalesces, a line for each event."""
    more = await ctx.incoming.begin() if ctx.incoming is not None and ctx.incoming.coalesces else []
    return "\n".join((prompt_about(ctx), *map(default_prompt, more)))


def prompt_about(ctx: AgentContext) -> str:
    """The event; of a run with a batch, the summary of all of them."""
    return ctx.events.summary() if len(ctx.events) > 1 else default_prompt(ctx.event)


def default_prompt(event: BaseEvent) -> str:
    """The event's type and payload as JSON."""
    meta = event.meta
    payload = meta.payload if meta is not None else orjson.loads(event.payload_json())
    return orjson.dumps({"type": event.type, "payload": payload}).decode()


def output_json(output: Any, max_bytes: int) -> str | None:
    """What the agent returned, as JSON text; None stays None.

    Raises:
        OutputError: It cannot be written as JSON, or it is too large.
    """
    if output is None:
        return None
    if type(output).__name__ == "AgentRunResult":
        output = output.output
    try:
        text = to_json(output, inf_nan_mode="null").decode()
    except (ValueError, TypeError) as error:
        raise OutputError(
            f"the agent returned a {type(output).__qualname__} that cannot be written as JSON: {error}; "
            "return text, numbers, lists, dicts, dataclasses or pydantic models"
        ) from error
    if len(text.encode()) > max_bytes:
        raise OutputError(
            f"the agent returned {len(text.encode())} bytes of JSON; the limit is {max_bytes} "
            "(REFLEX_MAX_OUTPUT_BYTES): store the data elsewhere and return where it is"
        )
    return without_nul(text)


def usage_of(ctx: AgentContext) -> dict[str, Any] | None:
    """What the pydantic-ai agents of this run used up, those that failed too; None if there were none.

    What was replayed from the journal is in the sums, since limits apply to the whole of a run, and once more under
    `replayed_…`: an earlier attempt has paid for it.
    """
    if not ctx.usages:
        return None
    total: Any = sum(ctx.usages[1:], ctx.usages[0])
    usage: dict[str, Any] = {name: getattr(total, name) for name in COUNTED}
    usage |= {name: count for name in COUNTED_IF_ANY if (count := getattr(total, name))}
    if total.cost is not None:
        usage["cost_usd"] = float(total.cost)
    if ctx.journal is not None:
        usage |= ctx.journal.replayed
        if costs := [each.cost for each in ctx.journal.replayed_usages if each.cost is not None]:
            usage["replayed_cost_usd"] = float(sum(costs))
    return usage

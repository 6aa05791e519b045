"""Message histories: read, written, cut to a window, and told in words to whoever summarises them.

Imported by the first run that remembers: it needs pydantic-ai.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelRequestPart,
    RetryFeedbackPart,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    repair_messages,
)
from pydantic_ai.usage import RunUsage

from reflex.agent.fingerprints import told
from reflex.agent.journal import inside_tool
from reflex.agent.memory import Memory
from reflex.agent.state import StateError, StateUnreadable

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.models import Model
    from pydantic_ai.run import AgentRunResult

    from reflex.agent.context import AgentContext

__all__ = ["read_messages", "read_usage", "remembering", "shortened", "write_messages", "write_usage"]

USAGE: Final = TypeAdapter(RunUsage)
BYTES_PER_TOKEN: Final = 4
SUMMARY: Final = "What was said before, in short:\n\n"
# Of the message that holds the summary. Not told to the model.
IS_SUMMARY: Final = {"reflex": "summary"}


def read_messages(text: str | None) -> list[ModelMessage]:
    """Raises StateUnreadable if this version of pydantic-ai cannot read them."""
    if text is None:
        return []
    try:
        return ModelMessagesTypeAdapter.validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise StateUnreadable(
            f"the messages that are stored cannot be read: {'.'.join(map(str, problem['loc']))}: {problem['msg']}; "
            "`reflex state forget` begins the conversation anew"
        ) from error


def read_usage(text: str | None) -> RunUsage:
    """Raises StateUnreadable if this version of pydantic-ai cannot read it."""
    try:
        return RunUsage() if text is None else USAGE.validate_json(text)
    except ValidationError as error:
        raise StateUnreadable(f"the usage of the conversation cannot be read: {error}") from error


def write_messages(messages: list[ModelMessage]) -> str:
    """Raises StateError if something in them cannot be written as JSON."""
    try:
        return ModelMessagesTypeAdapter.dump_json(messages).decode()
    except ValueError as error:
        raise StateError(f"the messages of the conversation cannot be written as JSON: {error}") from error


def write_usage(usage: RunUsage) -> str:
    return USAGE.dump_json(usage, exclude_defaults=True).decode()


async def remembering(
    agent: "AbstractAgent[Any, Any]", ctx: "AgentContext", prompt: str | None, options: dict[str, Any]
) -> "AgentRunResult[Any]":
    """Run an agent that goes on with the conversation, and remember what is said.

    Raises:
        StateError: Another agent of this run is at it, or the event has no key, or a tool asks for it.
        TypeError: There is a message_history, too.
    """
    if options.get("message_history") is not None:
        raise TypeError(f"trigger {ctx.trigger!r}: pass memory=True or a message_history, not both")
    if inside_tool():
        raise StateError(f"trigger {ctx.trigger!r}: an agent inside a tool cannot remember; only the outermost ones do")
    memory = ctx.memory
    # Calls at the end that nobody has answered, such as deferred ones, are closed: an agent takes no prompt after them.
    history = repair_messages(memory.begin())
    try:
        result = await ctx.run_agent(agent, prompt, memory=False, **{**options, "message_history": history})
        model = options.get("model") or (ctx.models.model_for(agent) if ctx.models else None) or agent.model
        await memory.extend(
            result.new_messages(),
            spent=lambda: sum(ctx.usages, RunUsage()),
            summary=lambda dropped: summary_of(ctx, memory.declared, dropped, model),
        )
    finally:
        memory.end()
    return result


def begins_turn(message: ModelMessage) -> bool:
    """Whether a history can begin here: with the user, and no answer to a call from before."""
    if not isinstance(message, ModelRequest):
        return False
    kinds = [type(part) for part in message.parts]
    return UserPromptPart in kinds and not any(issubclass(kind, ToolReturnPart | RetryFeedbackPart) for kind in kinds)


def tokens(messages: Sequence[ModelMessage]) -> int:
    """About how many: of what the model is told, without what pydantic-ai notes beside it."""
    return len(json.dumps(told(messages), ensure_ascii=False).encode()) // BYTES_PER_TOKEN


def window(messages: Sequence[ModelMessage], max_messages: int | None, max_tokens: int | None) -> int:
    """Where the window begins: the first turn from which on everything fits, or else the last turn."""
    turns = [at for at, message in enumerate(messages) if begins_turn(message)]
    sizes = [tokens([message]) for message in messages] if max_tokens is not None else []
    for at in turns:
        if (max_messages is None or len(messages) - at <= max_messages) and (
            max_tokens is None or sum(sizes[at:]) <= max_tokens
        ):
            return at
    return turns[-1] if turns else 0


async def shortened(
    messages: list[ModelMessage], memory: Memory, summary: Callable[[list[ModelMessage]], Awaitable[str]]
) -> list[ModelMessage]:
    """The messages within the window of the memory. What falls out is summarised, if the memory says so.

    A system prompt stands in the first message only, and pydantic-ai adds none to a history: it is carried over.
    """
    begin = window(messages, memory.max_messages, memory.max_tokens)
    if begin == 0:
        return messages
    if memory.summarise is not None:
        halves = [limit // 2 if limit is not None else None for limit in (memory.max_messages, memory.max_tokens)]
        begin = window(messages, *halves)
    dropped, kept = messages[:begin], messages[begin:]
    system: list[ModelRequestPart] = [part for part in dropped[0].parts if isinstance(part, SystemPromptPart)]
    if memory.summarise is not None:
        said = UserPromptPart(SUMMARY + await summary(dropped))
        return [ModelRequest([*system, said], metadata=IS_SUMMARY), *kept]
    first = kept[0]
    assert isinstance(first, ModelRequest)
    return [replace(first, parts=[*system, *first.parts]) if system else first, *kept[1:]]


async def summary_of(
    ctx: "AgentContext", memory: Memory, messages: list[ModelMessage], model: "Model | str | None"
) -> str:
    """What the messages come to. A model request of its own, journaled like every other.

    Args:
        model: That of the agent whose conversation it is; None for the default one.
    """
    summarise: Any = memory.summarise
    if isinstance(summarise, str):
        agent: Any = Agent(name=f"{ctx.trigger} summary", instructions=summarise)
        summary = (await ctx.run_agent(agent, transcript(messages), model=model)).output
    elif callable(summarise):
        summary = await cast("Callable[..., Awaitable[str]]", summarise)(ctx, messages)
    else:
        summary = (await ctx.run_agent(summarise, transcript(messages))).output
    if not isinstance(summary, str):
        raise StateError(f"trigger {ctx.trigger!r}: the summary of its memory is {summary!r}, not a text")
    return summary


def transcript(messages: Sequence[ModelMessage]) -> str:
    """What was said, as a text."""
    return "\n\n".join(line for message in messages for line in lines(message))


def lines(message: ModelMessage) -> Iterator[str]:
    for part in message.parts:
        match part:
            case UserPromptPart():
                yield f"User: {said(part.content)}"
            case TextPart():
                yield f"Assistant: {part.content}"
            case ToolCallPart():
                yield f"Assistant calls {part.tool_name}({part.args_as_json_str()})"
            case ToolReturnPart():
                yield f"{part.tool_name} returned: {part.model_response_str()}"
            case _:
                pass


def said(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(piece if isinstance(piece, str) else f"[{type(piece).__name__}]" for piece in content or ())

"""What agents that a tool runs have used up: kept with the tool call, so that its replay counts them as well.

Needs pydantic-ai.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.usage import RequestUsage, RunUsage

from reflex.agent.journal import Spent, ToolCall, tool_calls

if TYPE_CHECKING:
    from reflex.agent.context import AgentContext

__all__ = ["CALLED", "Delegated", "delegated_in", "note_spent", "spend_again"]


@dataclass(frozen=True)
class Delegated:
    """What was used up inside a tool call: `shared` is counted in the usage of the run that made the call, since its
    tool passed it on; `own` is not."""

    shared: RunUsage | None = None
    own: RunUsage | None = None


CALLED: Final = RunUsage(tool_calls=1)


def note_spent(run_usage: object, spent: RequestUsage | RunUsage) -> None:
    """An agent has been answered, or has called a tool (CALLED), or both several times; `run_usage` is what it counts
    that in. The usage of a request gets its price later, and so is kept as it is until the tool ends."""
    for call in tool_calls.get():
        call.spent.append(Spent(spent, is_shared=run_usage is call.run_usage))


def delegated_in(call: ToolCall) -> Delegated | None:
    """None if its tool has run no agent, as a rule."""
    if not call.spent:
        return None
    shared, own = (total([each.usage for each in call.spent if each.is_shared is which]) for which in (True, False))
    return Delegated(shared, own)


def total(spent: list[Any]) -> RunUsage | None:
    if not spent:
        return None
    usage = RunUsage()
    for each in spent:
        usage.requests += isinstance(each, RequestUsage)
        usage.incr(each)
    return usage


def spend_again(ctx: "AgentContext", run_usage: Any, delegated: Delegated | None) -> None:
    """Count what a replayed call had used up, as the attempt did that made it."""
    if delegated is None or ctx.journal is None:
        return
    if delegated.shared is not None:
        run_usage.incr(delegated.shared)
        note_spent(run_usage, delegated.shared)
    if delegated.own is not None:
        ctx.usages.append(delegated.own)
        note_spent(delegated.own, delegated.own)
    for usage in (delegated.shared, delegated.own):
        if usage is not None:
            ctx.journal.replayed_usages.append(usage)
            ctx.journal.count(
                replayed_requests=usage.requests,
                replayed_tool_calls=usage.tool_calls,
                replayed_input_tokens=usage.input_tokens,
                replayed_output_tokens=usage.output_tokens,
            )

"""How a tool call ended, as the journal keeps it. Needs pydantic-ai."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from pydantic import TypeAdapter
from pydantic_ai.durable_exec import record_durable_unit
from pydantic_ai.exceptions import CallDeferred, ModelRetry, ToolFailed
from pydantic_ai.messages import ToolReturn
from pydantic_core import SchemaSerializer
from pydantic_core.core_schema import CoreConfig

from reflex.agent.delegated import Delegated, delegated_in, spend_again
from reflex.agent.enqueuing import Enqueued, Loaded, enqueue_again
from reflex.agent.journal import StepKey, ToolCall
from reflex.agent.remembering import StateRecord
from reflex.core.events import NewEvent

if TYPE_CHECKING:
    from pydantic_ai.tools import RunContext

    from reflex.agent.context import AgentContext
    from reflex.agent.journal import Journal

__all__ = ["TOOL_RECORD", "ToolRecord"]


@dataclass(frozen=True)
class ToolRecord:
    """How a tool call ended. That the model is to try again is a way to end, and as final as the others: repeating
    the call might do its work twice, and answer the model something else than the next request was recorded for."""

    ended: Literal["value", "tool_return", "retry", "failed", "deferred"]
    value: ToolReturn[Any] | None = None
    message: str = ""
    # Lists: pydantic writes any other sequence by way of Python.
    published: list[NewEvent] = field(default_factory=list[NewEvent])
    steps: list[StepKey] = field(default_factory=list[StepKey])
    state: StateRecord | None = None
    delegated: Delegated | None = None
    enqueued: list[Enqueued | Loaded] | None = None

    @classmethod
    def of_result(cls, result: object) -> "ToolRecord":
        if isinstance(result, ToolReturn):
            return cls("tool_return", cast("ToolReturn[Any]", result))
        return cls("value", ToolReturn(return_value=cast("Any", result)))

    @classmethod
    def of_error(cls, error: ModelRetry | ToolFailed | CallDeferred) -> "ToolRecord":
        if isinstance(error, CallDeferred):
            return cls("deferred", ToolReturn(return_value=None, metadata=error.metadata), message=error.kind)
        return cls("retry" if isinstance(error, ModelRetry) else "failed", message=error.message)

    def with_call(self, call: ToolCall, state: StateRecord | None = None) -> "ToolRecord":
        """With what happened inside."""
        return replace(
            self,
            published=call.published,
            steps=call.steps,
            state=state,
            delegated=delegated_in(call),
            enqueued=call.enqueued or None,
        )

    @property
    def counts(self) -> bool:
        """Whether pydantic-ai counts such a call in the usage: one that has succeeded."""
        return self.ended in ("value", "tool_return")

    def as_json(self) -> str:
        """Raises ValueError if something in it cannot be written as JSON."""
        return WRITER.to_json(self).decode()

    def replayed(self, ctx: "AgentContext", journal: "Journal", run: "RunContext[Any]", run_usage: Any) -> Any:
        """The outcome, instead of another call: what the call did besides is there again, too."""
        journal.count(replayed_tool_calls=int(self.counts))
        journal.covers(self.steps)
        ctx.publish_again(self.published)
        spend_again(ctx, run_usage, self.delegated)
        enqueue_again(run, self.enqueued)
        record_durable_unit(executed=False)
        return self.outcome()

    def outcome(self) -> Any:
        match self.ended:
            case "retry":
                raise ModelRetry(self.message)
            case "failed":
                raise ToolFailed(self.message)
            case "deferred":
                metadata = self.value.metadata if self.value is not None else None
                raise CallDeferred(metadata, kind="question" if self.message == "question" else "external")
            case "tool_return":
                return self.value
            case "value":
                return self.value.return_value if self.value is not None else None


TOOL_RECORD: Final = TypeAdapter(ToolRecord)
# Bytes as pydantic-ai tells them to the model: else a replay would tell it something else. A TypeAdapter takes no
# configuration for a dataclass.
WRITER: Final = SchemaSerializer(TOOL_RECORD.core_schema, CoreConfig(ser_json_bytes="base64"))

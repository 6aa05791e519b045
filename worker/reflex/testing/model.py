"""The model of a tested app: it says what the test has it say, and keeps what it was asked."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard, cast
from uuid import uuid4

from pydantic import BaseModel
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_core import to_json, to_jsonable_python

from reflex.agent.models import OFFLINE, Models
from reflex.agent.offline import in_parts, prompt_text, respond
from reflex.agent.schema_fit import fits
from reflex.core.errors import ReflexError
from reflex.core.logs import run_fields

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.models import Model

__all__ = ["Answer", "Asked", "FakeModel", "FakeModels", "NoAnswer", "call", "rate_limited"]

# A text; a value of the agent's output type; calls of tools; a whole response; an error to raise; or a function that
# says one of these.
Answer: TypeAlias = "str | BaseModel | DataclassInstance | Mapping[str, Any] | ToolCallPart | Sequence[str | ToolCallPart] | ModelResponse | Exception | Callable[[Asked], Any]"  # noqa: E501
Predicate: TypeAlias = "str | Callable[[Asked], bool]"
MODEL_NAME: Final = "fake"


class NoAnswer(ReflexError):
    """The script has no answer to what the model was asked, or one that does not fit."""

    code = "no_answer"


@dataclass(frozen=True)
class Asked:
    """One request to the model.

    Attributes:
        trigger: Whose run asked; "?" outside of one.
        prompt: The texts of the user's prompts, all of them.
        messages: The whole conversation, as pydantic-ai has it.
        instructions: The agent's.
        info: Its tools, output and settings.
    """

    trigger: str
    prompt: str
    messages: list[ModelMessage]
    instructions: str | None
    info: AgentInfo

    @property
    def tool_results(self) -> dict[str, Any]:
        """What tools have returned in this conversation, by name; of several calls of one tool the last."""
        parts = [part for message in self.messages if isinstance(message, ModelRequest) for part in message.parts]
        return {part.tool_name: part.content for part in parts if isinstance(part, ToolReturnPart)}

    def __repr__(self) -> str:
        return f"<asked by {self.trigger}: {self.prompt[:200]!r}, {len(self.messages)} messages>"


class FakeModel:
    """Answers for every agent of the app, whatever model it names. Nothing leaves the process.

    First come the rules (`on`), then the list (`answers`), one after the other. Without a list it is the offline model,
    which calls each tool once and then answers.
    """

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.problems: list[NoAnswer] = []
        self.function_model = FunctionModel(self.respond, stream_function=self.stream, model_name=MODEL_NAME)
        self._rules: list[tuple[Predicate, Answer]] = []
        self._queue: deque[Answer] = deque()
        self._scripted = 0

    def answers(self, answers: Sequence[Answer]) -> None:
        """Say these, each once, in this order; more can be added later. One request too many fails the run and the
        test.

        Args:
            answers: Texts; values of the agent's output type (a pydantic model, a dataclass, a dict); tool calls
                (`call("stock", sku="A")`, or a list of calls and texts for one response); exceptions to raise
                (`rate_limited(30)`); functions of what was asked that return one of these.
        """
        if isinstance(answers, str):
            raise TypeError(f"answers() takes a list of answers, not {answers!r}")
        self._queue.extend(answers)
        self._scripted += len(answers)

    def on(self, predicate: Predicate, answer: Answer) -> None:
        """Say this whenever the predicate holds: a function of what was asked, or a text that the prompt contains."""
        self._rules.append((predicate, answer))

    @property
    def unused(self) -> int:
        """How many answers of the list were not asked for yet."""
        return len(self._queue)

    async def respond(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked = Asked(trigger_of_run(), prompt_text(messages), list(messages), info.instructions, info)
        self.requests.append(asked)
        try:
            answer = self.answer_to(asked)
            if answer is None:
                return await respond(messages, info)
            return response(answer, asked)
        except NoAnswer as error:
            self.problems.append(error)
            raise

    async def stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        async for part in in_parts(await self.respond(messages, info)):
            yield part

    def answer_to(self, asked: Asked) -> "Answer | None":
        """What the script says; None leaves it to the offline model."""
        for predicate, answer in self._rules:
            if predicate in asked.prompt if isinstance(predicate, str) else predicate(asked):
                return answer
        if self._queue:
            return self._queue.popleft()
        if self._scripted:
            raise NoAnswer(f"the model was asked once more than it has answers ({self._scripted}): {asked!r}")
        return None


class FakeModels(Models):
    """Gives the fake model to every agent."""

    def __init__(self, fake: FakeModel) -> None:
        super().__init__(OFFLINE)
        self.fake = fake

    def model_for(self, agent: "AbstractAgent[Any, Any]") -> "Model[Any] | None":
        return self.fake.function_model

    def named(self, name: str) -> "Model[Any]":
        return self.fake.function_model


def call(tool: str, /, **arguments: Any) -> ToolCallPart:
    """An answer, or a part of one, in which the model calls a tool."""
    return ToolCallPart(tool, to_jsonable_python(arguments), tool_call_id=f"call_{uuid4().hex[:12]}")


def rate_limited(retry_after: float | None = None) -> ModelHTTPError:
    """A provider's 429, with a Retry-After of so many seconds."""
    return ModelHTTPError(429, MODEL_NAME, "rate limited (by the test)", retry_after=retry_after)


def response(answer: Any, asked: Asked) -> ModelResponse:
    """The response that the answer means to the agent that asked.

    Raises:
        NoAnswer: The agent does not take such an output.
        Exception: The answer is one.
    """
    if isinstance(answer, BaseException):
        raise answer
    if isinstance(answer, ModelResponse):
        return answer
    if isinstance(answer, str | ToolCallPart):
        answer = [answer]
    elif isinstance(answer, BaseModel | Mapping) or (is_dataclass(answer) and not isinstance(answer, type)):
        return ModelResponse(parts=[output_part(answer, asked)])
    if is_parts(answer):
        return ModelResponse(parts=[part_of(part) for part in answer])
    if callable(answer):
        return response(cast("Callable[[Asked], Any]", answer)(asked), asked)
    raise NoAnswer(f"{answer!r} is no answer of a model: see FakeModel.answers for what is")


def is_parts(answer: object) -> "TypeGuard[Sequence[str | ToolCallPart]]":
    return isinstance(answer, Sequence) and all(
        isinstance(part, str | ToolCallPart) for part in cast("Sequence[object]", answer)
    )


def part_of(answer: str | ToolCallPart) -> ModelResponsePart:
    return TextPart(answer) if isinstance(answer, str) else answer


def output_part(value: Any, asked: Asked) -> ModelResponsePart:
    """A value of the agent's output type, in the form in which this agent takes it."""
    name, arguments = type(value).__name__, to_jsonable_python(value)
    if tools := asked.info.output_tools:
        # With several output types there is a tool for each, named for it unless the author has named it.
        named = (tool for tool in tools if tool.name.endswith(f"_{name}"))
        fitting = (tool for tool in tools if may_be(arguments, tool.parameters_json_schema))
        tool = next(chain(named, fitting), tools[0])
        return ToolCallPart(tool.name, arguments, tool_call_id=f"call_{uuid4().hex[:12]}")
    if (written := asked.info.model_request_parameters.output_object) is not None:
        return TextPart(to_json(of_union(arguments, name, written.json_schema)).decode())
    raise NoAnswer(f"{value!r} is no answer to {asked!r}: the agent's output is a text")


def of_union(arguments: Any, name: str, schema: Mapping[str, Any]) -> Any:
    """Where the output is one of several types, written as JSON, it says which one it is."""
    options = schema.get("properties", {}).get("result", {}).get("anyOf", ())
    if not options or may_be(arguments, schema):
        return arguments
    parts = {option["properties"]["kind"]["const"]: option["properties"]["data"] for option in options}
    fitting = (kind for kind, data in parts.items() if may_be(arguments, data, schema))
    kind = name if name in parts else next(fitting, None)
    return arguments if kind is None else {"result": {"kind": kind, "data": arguments}}


def may_be(value: Any, schema: Any, root: Mapping[str, Any] | None = None) -> bool:
    """Whether the value fits, as far as it can be told."""
    try:
        return fits(value, schema, schema if root is None else root)
    except (ValueError, LookupError):
        return False


def trigger_of_run() -> str:
    fields = run_fields.get()
    return str(fields().get("trigger", "?")) if fields is not None else "?"

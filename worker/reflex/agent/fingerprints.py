"""Fingerprints of steps: what makes two model requests, or two tool calls, the same one.

In: everything that the model is told. Out: what differs from run to run without being told, such as timestamps and
the ids of runs, and settings about how to ask rather than what.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from pydantic_core import to_jsonable_python

from reflex.agent.arguments import SORTED

__all__ = [
    "UNTOLD",
    "described",
    "fingerprint_of_call",
    "fingerprint_of_request",
    "parts_told",
    "said",
    "told",
]

# Of a message's part; `metadata` is the application's own.
UNTOLD: Final = frozenset({"timestamp", "metadata", "content_file_digests", "otel_metadata"})
TEXTS: Final = (TextPart, ToolCallPart, ToolReturnPart, UserPromptPart)
# Not numbers with a point: not all of them are JSON.
JSON_AS_THEY_ARE: Final = frozenset({str, int, bool, type(None)})
# pydantic-ai makes up ids where a provider or a retry prompt has none: new ones each run.
GENERATED_ID: Final = "pyd_ai_"
HOW_TO_ASK: Final = frozenset({"timeout", "request_timeout", "first_event_timeout", "max_retries", "extra_headers"})


def fingerprint_of_request(
    model_id: str,
    conversation: bytes,
    settings: ModelSettings | None,
    parameters: ModelRequestParameters,
) -> bytes:
    """Of a model request. `conversation` is the digest of its messages.

    Raises:
        ValueError: Something in it cannot be written as JSON.
    """
    output = parameters.output_object
    return digest(
        conversation,
        "model_request",
        model_id,
        {name: value for name, value in (settings or {}).items() if name not in HOW_TO_ASK},
        [described(tool) for tool in sorted(parameters.function_tools, key=lambda tool: tool.name)],
        [described(tool) for tool in sorted(parameters.output_tools, key=lambda tool: tool.name)],
        parameters.native_tools,
        [parameters.output_mode, parameters.allow_text_output, parameters.allow_image_output],
        None if output is None else [output.name, output.description, output.json_schema],
        [part.content for part in parameters.instruction_parts or ()],
    )


def fingerprint_of_call(
    conversation: bytes, name: str, arguments: Mapping[str, Any], tool_call_id: str | None
) -> bytes:
    """Of a tool call. The conversation up to the response that asks for it is part of it, as its digest: providers
    reuse ids such as `call_0`, and after a divergence the same call with the same id must not get an answer from
    another conversation.

    Raises:
        ValueError: Something in it cannot be written as JSON.
    """
    return digest(conversation, "tool_call", name, arguments, tool_call_id)


def said(messages: Sequence[ModelMessage], tool_call_id: str | None) -> dict[str, Any] | None:
    """The arguments of a call as the model said them in its last response; None if there is no such call, or several.

    What a tool is given was validated, and may hold what is made up each time, such as a default id.
    """
    response = next((message for message in reversed(messages) if isinstance(message, ModelResponse)), None)
    calls = [call for call in response.tool_calls if call.tool_call_id == tool_call_id] if response is not None else []
    return calls[0].args_as_dict() if len(calls) == 1 else None


def told(messages: Sequence[ModelMessage]) -> list[Any]:
    """What a model is told by messages, as JSON-able data: of each its kind, its instructions and its parts.

    Raises:
        ValueError: Something in them cannot be written as JSON.
    """
    return [[message.kind, getattr(message, "instructions", None), parts_told(message)] for message in messages]


def parts_told(message: ModelMessage) -> list[dict[str, Any]]:
    """What a model is told by the parts of a message.

    Raises:
        ValueError: Something in them cannot be written as JSON.
    """
    if all(map(is_plain, message.parts)):
        return [part_told(vars(part)) for part in message.parts]
    (dumped,) = cast(
        "list[dict[str, Any]]",
        ModelMessagesTypeAdapter.dump_python([message], mode="json", fallback=class_name),
    )
    return [part_told(part) for part in dumped["parts"]]


def is_plain(part: Any) -> bool:
    """Whether its fields are JSON as they are. Most parts are texts, and pydantic takes longer for all of them than for
    what is no text."""
    if not isinstance(part, TEXTS):
        return False
    for name, value in vars(part).items():  # a generator would take longer than what it looks at
        if type(value) not in JSON_AS_THEY_ARE and name not in UNTOLD and not (name == "args" and is_flat(value)):
            return False
    return True


def is_flat(arguments: Any) -> bool:
    return type(arguments) is dict and all(
        type(name) is str and type(value) in JSON_AS_THEY_ARE
        for name, value in cast("dict[Any, Any]", arguments).items()
    )


def part_told(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in part.items()
        if name not in UNTOLD and not (name == "tool_call_id" and str(value).startswith(GENERATED_ID))
    }


def described(tool: ToolDefinition) -> list[Any]:
    return [tool.name, tool.description, tool.parameters_json_schema, tool.strict]


def digest(conversation: bytes, *parts: Any) -> bytes:
    text = SORTED(to_jsonable_python(parts, fallback=class_name))
    return hashlib.sha256(conversation + text.encode()).digest()


def class_name(value: Any) -> str:
    """What an object that is no data counts as: its repr() would hold an address."""
    return type(value).__qualname__

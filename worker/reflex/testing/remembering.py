"""A model that says the same again when it is asked the same again: after a crash the journal may not have the answer,
and a script that went on to the next one would change the course of the app."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator

import orjson
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo, DeltaToolCall

from reflex.agent.fingerprints import told
from reflex.agent.offline import in_parts
from reflex.testing.model import FakeModel

__all__ = ["Remembering"]


class Remembering:
    """Stands before a fake model. Of several equal requests in one life each has its own answer."""

    def __init__(self, model: FakeModel) -> None:
        self._respond = model.respond
        self._said: dict[bytes, list[ModelResponse]] = {}
        self._asked: Counter[bytes] = Counter()
        model.function_model.function = self.respond
        model.function_model.stream_function = self.stream

    def begin_again(self) -> None:
        """The worker was replaced: what is asked from now on may have been asked before."""
        self._asked.clear()

    async def respond(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked = hashlib.sha256(orjson.dumps(told(messages))).digest()
        said = self._said.setdefault(asked, [])
        number = self._asked[asked]
        self._asked[asked] += 1
        if number < len(said):
            return said[number]
        response = await self._respond(messages, info)
        said.append(response)
        return response

    async def stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        async for part in in_parts(await self.respond(messages, info)):
            yield part

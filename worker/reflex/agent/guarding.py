"""A guard in front of a model: it is not asked while its circuit is open, and its failures are counted.

Imported by the first run of an agent: it needs pydantic-ai.
"""

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from copy import copy
from datetime import timedelta
from typing import Any, Final

from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from reflex.agent.failures import headline, model_failure, without_secrets
from reflex.core.circuits import Blocked, Circuits
from reflex.core.waiting import Wait, WaitKind

__all__ = ["ModelBlocked", "guarded_model"]

# Failures of the provider, not of the request: whoever asks next would meet them, too.
FAILS: Final = frozenset({"model_unavailable", "model_timeout", "rate_limited"})


class ModelBlocked(ModelAPIError):
    """The model is not asked now. A FallbackModel goes on to the next one; a run that has none waits, without using up
    an attempt."""

    def __init__(self, model_name: str, blocked: Blocked) -> None:
        super().__init__(model_name, f"not asked, since it fails: {blocked.reason}")
        # Not all at once when it is over: one tries, and if it fails the others have waited for nothing.
        duration = blocked.duration + timedelta(seconds=random.uniform(0.1, 2))  # noqa: S311 (jitter)
        self.wait = Wait(WaitKind.PROVIDER, f"the model {model_name} fails: {blocked.reason}", duration)


def guarded_model(model: Model[Any], circuits: Circuits) -> Model[Any]:
    """The model behind its guard. Of a FallbackModel each one has its own."""
    if type(model) is FallbackModel:
        # It is asked and never entered: the connections of its models belong to the one that was copied.
        chain = copy(model)
        chain.models = [guarded_model(inner, circuits) for inner in model.models]
        return chain
    return GuardedModel(model, circuits)


class GuardedModel(WrapperModel):
    """Asks the circuit first, and tells it how the request ended."""

    def __init__(self, wrapped: Model[Any], circuits: Circuits) -> None:
        super().__init__(wrapped)
        self.circuits = circuits

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        await self._ask()
        try:
            response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        except Exception as error:
            await self._failed(error)
            raise
        await self.circuits.succeeded(self.wrapped.model_id)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        await self._ask()
        try:
            async with self.wrapped.request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream:
                yield stream
        except Exception as error:
            await self._failed(error)
            raise
        await self.circuits.succeeded(self.wrapped.model_id)

    async def _ask(self) -> None:
        model = self.wrapped.model_id
        if (blocked := await self.circuits.ask(model)) is not None:
            raise ModelBlocked(model, blocked)

    async def _failed(self, error: Exception) -> None:
        model = self.wrapped.model_id
        reason, retry_after, _ = model_failure(error) or ("", None, "")
        if reason in FAILS:
            blocked = await self.circuits.failed(model, without_secrets(headline(error)), retry_after=retry_after)
            if blocked is not None:
                raise ModelBlocked(model, blocked) from error
        elif reason:
            # It answers, if only that it does not like the request.
            await self.circuits.succeeded(model)

"""A guard in front of a model: it is not asked while its circuit is open, and its failures are counted.

Imported by the first run of an agent: it needs pydantic-ai.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from datetime import timedelta
from typing import Any, Final

import anyio
from pydantic_ai.exceptions import (
    ModelHTTPError,
    ModelOverloadedError,
    ModelRateLimitError,
    ModelRequestTimeout,
    ModelServerError,
    ModelTimeoutError,
)
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.concurrency import ConcurrencyLimitedModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from reflex.agent.failures import headline, model_failure, without_secrets
from reflex.agent.run_time import run_time
from reflex.core.circuits import Blocked, Circuits
from reflex.core.waiting import Wait, WaitKind

__all__ = ["ModelBlocked", "guarded_model"]

# A model that has not answered by then has failed, if there the trigger's timeout ends the run.
ENOUGH_S: Final = 30.0
# Failures of the provider, not of the request: whoever asks next would meet them, too.
FAILS: Final = frozenset({"model_unavailable", "model_timeout", "rate_limited"})


class ModelBlocked(ModelHTTPError, ModelRateLimitError, ModelOverloadedError, ModelServerError, ModelTimeoutError):
    """The model is not asked now. A FallbackModel goes on to the next one; a run that has none waits, without using up
    an attempt.

    It is any of the failures that open a circuit: whoever names one of these in a `fallback_on` means this, too.
    """

    def __init__(self, model_name: str, blocked: Blocked) -> None:
        super().__init__(503, model_name, f"not asked, since it fails: {blocked.reason}")
        self.wait = wait_for(model_name, blocked)


def wait_for(model_name: str, blocked: Blocked) -> Wait:
    """Not all at once when it is over: one tries, and if it fails the others have waited for nothing."""
    duration = blocked.duration + timedelta(seconds=random.uniform(0.1, 2))  # noqa: S311 (jitter)
    return Wait(WaitKind.PROVIDER, f"the model {model_name} fails: {blocked.reason}", duration)


def guarded_model(model: Model[Any], circuits: Circuits, named: set[str] | None = None) -> Model[Any]:
    """The model behind its guard, which is next to the provider. Of a FallbackModel each one has its own.

    Args:
        named: Circuits of a chain so far: the same model in two regions are two that fail for themselves.
    """
    named = set() if named is None else named
    if type(model) is FallbackModel:
        # It is asked and never entered: the connections of its models belong to the one that was copied.
        chain = copy(model)
        chain.models = [guarded_model(inner, circuits, named) for inner in model.models]
        return chain
    if type(model) is ConcurrencyLimitedModel:
        limited = copy(model)
        limited.wrapped = guarded_model(model.wrapped, circuits, named)
        return limited
    name = model.model_id
    if name in named:
        name = f"{name} at {model.base_url}"
    if name in named:
        name = f"{name} ({len(named) + 1} of the chain)"
    named.add(name)
    return GuardedModel(model, circuits, name)


class Deadline:
    """Until when an answer is waited for, by pydantic-ai or by the run. Both end a request by cancelling it, and an
    error is made of that only outside of the model: in here it looks like any other cancellation."""

    def __init__(self, model: Model[Any], settings: ModelSettings | None, *, stream: bool) -> None:
        given: Mapping[str, Any] = {**(model.settings or {}), **(settings or {})}
        limits = [given.get("request_timeout"), given.get("first_event_timeout") if stream else None]
        self.limit_s = min((limit for limit in limits if limit is not None), default=None)
        self.expires_at = anyio.current_effective_deadline()
        self.began_at = anyio.current_time()
        self.answers = False
        if self.limit_s is not None and self.expires_at - self.began_at < self.limit_s / 2:
            self.limit_s = None  # the author's own code has less time: that is not about the provider

    def error(self, model_name: str) -> ModelRequestTimeout | None:
        """What the cancellation stands for; None if it is another one."""
        now = anyio.current_time()
        if self.limit_s is not None and now >= self.expires_at:
            return ModelRequestTimeout(model_name, self.limit_s)
        run, took_s = run_time.get(), now - self.began_at
        if run is not None and now >= run.ends_at and not self.answers and took_s >= ENOUGH_S:
            return ModelRequestTimeout(model_name, round(took_s, 1))
        return None


class GuardedModel(WrapperModel):
    """Asks the circuit first, and tells it how the request ended. `name` is that of the circuit."""

    def __init__(self, wrapped: Model[Any], circuits: Circuits, name: str) -> None:
        super().__init__(wrapped)
        self.circuits = circuits
        self.name = name

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        deadline = Deadline(self.wrapped, model_settings, stream=False)
        await self._ask()
        try:
            response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        except Exception as error:
            await self._failed(error)
            raise
        except asyncio.CancelledError:
            await self._cut_off(deadline)
            raise
        await self.circuits.succeeded(self.name)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        deadline = Deadline(self.wrapped, model_settings, stream=True)
        await self._ask()
        try:
            async with self.wrapped.request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream:
                deadline.answers = True
                yield stream
        except Exception as error:
            await self._failed(error)
            raise
        except asyncio.CancelledError:
            await self._cut_off(deadline)
            raise
        await self.circuits.succeeded(self.name)

    async def _ask(self) -> None:
        if (blocked := await self.circuits.ask(self.name)) is not None:
            raise ModelBlocked(self.name, blocked)

    async def _cut_off(self, deadline: Deadline) -> None:
        """Count it, if the model had its time.

        Raises:
            ModelRequestTimeout: The run is to wait now.
        """
        if (error := deadline.error(self.wrapped.model_name)) is None:
            return
        with anyio.CancelScope(shield=True):
            if await self._failed(error):
                if (run := run_time.get()) is not None and anyio.current_time() >= run.ends_at:
                    run.wait = getattr(error, "wait", None)
                raise error

    async def _failed(self, error: Exception) -> bool:
        """Count it. True: that has opened the circuit. The error then says that the run waits; it stays what it is,
        since a `fallback_on` may ask."""
        reason, retry_after, _ = model_failure(error) or ("", None, "")
        if reason in FAILS:
            blocked = await self.circuits.failed(self.name, without_secrets(headline(error)), retry_after=retry_after)
            if blocked is not None:
                error.wait = wait_for(self.name, blocked)  # pyright: ignore[reportAttributeAccessIssue]
                return True
        elif reason:
            # It answers, if only that it does not like the request.
            await self.circuits.succeeded(self.name)
        return False

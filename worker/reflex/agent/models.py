"""Which model an agent uses: its own, DEFAULT_MODEL where it has none, or the offline one for all of them.

pydantic-ai is imported by the first agent that asks, never by an app of plain functions.
"""

import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from reflex.agent.metering import Meter
from reflex.agent.triggers import is_model_agent
from reflex.core.circuits import Circuits
from reflex.core.errors import AppError

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.models import Model

    from reflex.agent.app import App

__all__ = ["OFFLINE", "Models", "model_problem", "resolve_models"]

OFFLINE: Final = "offline"
VARIABLE: Final = re.compile(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`")
# Providers whose package says first that it is missing, and then, once installed, that its key is: tell both at once.
KEYS: Final = {
    "anthropic": "ANTHROPIC_API_KEY",
    "cohere": "CO_API_KEY",
    "google": "GOOGLE_API_KEY",
    "groq": "GROQ_API_KEY",
    "huggingface": "HF_TOKEN",
    "mistral": "MISTRAL_API_KEY",
    "xai": "XAI_API_KEY",
}


class Models:
    """The models of this process, each made once: a model owns an HTTP connection pool.

    Attributes:
        timeout_s: How long a request may take where the agent does not say. None is no limit.
        circuits: Which of them are not asked at the moment, since their providers fail. None outside a worker.
        meter: Is told what each answer took, if anybody wants to know.
    """

    def __init__(self, default_model: str | None = None, *, timeout_s: float | None = None) -> None:
        self.default_model = default_model
        self.timeout_s = timeout_s
        self.circuits: Circuits | None = None
        self.meter: Meter | None = None
        self._made: dict[str, Model[Any]] = {}
        self._owned: list[Model[Any]] = []

    def model_for(self, agent: "AbstractAgent[Any, Any]") -> "Model[Any] | None":
        """What to pass as `model=` to a run of the agent; None where the agent knows best.

        Raises:
            AppError: There is no model, or its key is not set; the sentence says which variable to set.
        """
        if self.default_model == OFFLINE:
            return self.named(OFFLINE)
        if isinstance(agent.model, str):
            # Its check was deferred. Made here it is shared; pydantic-ai would make one, with its pool, a run.
            return None if resolves_models_itself(agent) else self.named(agent.model)
        if agent.model is not None:
            if not any(agent.model is model for model in self._owned):
                self._owned.append(agent.model)
            return None
        if resolves_models_itself(agent):
            return None
        if self.default_model is None:
            raise AppError(
                "the agent names no model and DEFAULT_MODEL is not set; set it to a pydantic-ai model string such as "
                "anthropic:claude-sonnet-4-5, or to offline to run without a provider"
            )
        return self.named(self.default_model)

    def named(self, name: str) -> "Model[Any]":
        """The model of that name.

        Raises:
            AppError: It cannot be made; the sentence says why and what to set.
        """
        if name not in self._made:
            self._made[name] = made(name)
        return self._made[name]

    async def aclose(self) -> None:
        """Close the connections to providers. A model that is used again afterwards opens new ones."""
        for model in (*self._made.values(), *self._owned):
            # Entering a model is what makes leaving it close its client.
            async with model:
                pass


def resolve_models(app: "App", default_model: str | None, *, timeout_s: float | None = None) -> Models:
    """The models for the app's agents, all of them checked now rather than by the first event.

    Raises:
        AppError: An agent has no model, or one that cannot be used.
    """
    models = Models(default_model, timeout_s=timeout_s)
    for trigger in app.triggers:
        if is_model_agent(trigger.agent):
            try:
                model = models.model_for(trigger.agent)
                if trigger.budgets:
                    from reflex.agent.prices import check_priced

                    check_priced(trigger.budgets, model or trigger.agent.model)
            except AppError as error:
                raise AppError(f"trigger {trigger.name!r} ({trigger.where}): {error}") from error.__cause__
    # Agent functions run agents that no trigger names; whoever imported pydantic-ai will want the default model.
    if default_model and "pydantic_ai.agent" in sys.modules:
        models.named(default_model)
    return models


def made(name: str) -> "Model[Any]":
    if name == OFFLINE:
        from reflex.agent.offline import offline_model

        return offline_model()
    from pydantic_ai.models import infer_model

    try:
        return infer_model(name)
    except Exception as error:
        raise AppError(model_problem(error, name)) from error


def model_problem(error: BaseException, name: str | None) -> str:
    """Why a model cannot be made, as one sentence that ends with what to do."""
    text = " ".join(str(error).split())
    what = f"the model {name!r} cannot be used" if name else "a model cannot be used"
    provider = (name or "").partition(":")[0]
    if isinstance(error, ImportError) and provider:
        key = KEYS.get(provider)
        also = f", and set {key}" if key and not os.environ.get(key) else ""
        return f'{what}: its package is not installed; pip install "pydantic-ai-slim[{provider}]"{also}'
    if variables := VARIABLE.findall(text):
        return f"{what}: set {variables[0]}, or DEFAULT_MODEL=offline to run without a provider"
    return f"{what}: {text or type(error).__name__}"


def resolves_models_itself(agent: "AbstractAgent[Any, Any]") -> bool:
    """Whether a capability of the agent chooses the model or knows how to read its name."""
    capability: Any = getattr(agent, "root_capability", None)
    return capability is not None and (capability.has_resolve_model_id or capability.get_model() is not None)

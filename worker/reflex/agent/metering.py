"""What each answer of a model took, told to whoever counts it. What a journal replays is not told: it took nothing."""

from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse
    from pydantic_ai.models import Model

    from reflex.agent.context import AgentContext

__all__ = ["Meter", "meter"]


class Meter(Protocol):
    """Counts."""

    def __call__(
        self, trigger: str, model: str, *, input_tokens: int, output_tokens: int, usd: Decimal | None
    ) -> None: ...


def meter(ctx: "AgentContext", model: "Model[Any]", response: "ModelResponse") -> None:
    """A model was asked for a run, and this is its answer."""
    if ctx.models is None or ctx.models.meter is None:
        return
    usage = response.usage
    ctx.models.meter(
        ctx.trigger, name_of(model, response), input_tokens=usage.input_tokens, output_tokens=usage.output_tokens,
        usd=cost_of(response),
    )  # fmt: skip


def name_of(model: "Model[Any]", response: "ModelResponse") -> str:
    """The model as the app names it. A provider may answer with the name of a version, of which there are many."""
    from reflex.agent.prices import answered_by, models_of

    found: Sequence[Model[Any]] = answered_by(models_of(model), response)
    return found[0].model_id if len(found) == 1 else response.model_name or model.model_id


def cost_of(response: "ModelResponse") -> Decimal | None:
    """In dollars: the provider's own word, or as genai-prices knows it."""
    if response.usage.cost is not None:
        return Decimal(response.usage.cost)
    with suppress(AssertionError, LookupError, ValueError):
        return Decimal(response.cost().total_price)
    return None

"""Steering: what comes in while an agent runs is put before its model, with its next request.

pydantic-ai's public seam for it is the queue of a run, to which a hook before the request adds: what is added there is
part of this request and stays in the history. Imported by the first steered run of an agent: it needs pydantic-ai.
"""

import hashlib
from typing import TYPE_CHECKING, Any

from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import RunContext

from reflex.agent.execution import default_prompt
from reflex.agent.message_digests import MessageDigests

if TYPE_CHECKING:
    from reflex.agent.inbox import RunInbox

__all__ = ["Steering"]


class Steering(AbstractCapability[Any]):
    """Passed to the run of a trigger's own agent; agents that its tools run are not steered."""

    def __init__(self, inbox: "RunInbox") -> None:
        self.inbox = inbox
        self.digests = MessageDigests()

    def get_ordering(self) -> CapabilityOrdering:
        # After the author's own hooks, which may shorten the conversation: what is new is told in any case.
        return CapabilityOrdering(position="innermost")

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Tell the model each new event as a prompt of its own.

        Raises:
            LeaseLost, JournalUnavailable: As `RunInbox.receive`.
        """
        for event in await self.inbox.receive(self.place_of(request_context)):
            ctx.enqueue(default_prompt(event))
        return request_context

    def place_of(self, request: ModelRequestContext) -> bytes:
        """The place in the run, as the journal knows places: by the conversation that led to it, not by a number."""
        try:
            conversation = self.digests.of(request.messages)
        except ValueError:
            # Cannot be written as JSON: such a request is not journaled either. Then the length has to do.
            conversation = b"%d" % len(request.messages)
        return hashlib.sha256(b"inbox " + conversation).digest()

"""What happens: types of events, and what their payloads hold."""

from typing import Literal

from pydantic import Field
from reflex.core.events import BaseEvent, EventRegistry


@EventRegistry.register
class TicketOpened(BaseEvent):
    """Somebody asks for something."""

    type: Literal["ticket.opened"] = "ticket.opened"
    ticket_id: str
    text: str = Field(examples=["Our shop is down since noon."])


@EventRegistry.register
class TicketSorted(BaseEvent):
    """An agent has read a ticket."""

    type: Literal["ticket.sorted"] = "ticket.sorted"
    ticket_id: str
    urgency: Literal["low", "high"]
    summary: str

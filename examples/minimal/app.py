from typing import Literal

from pydantic_ai import Agent
from reflex.agent.filters import keyword_filter, type_filter
from reflex.agent.triggers import Trigger
from reflex.core.events import BaseEvent, EventRegistry


@EventRegistry.register
class OrderEvent(BaseEvent):
    type: Literal["order.created"] = "order.created"
    order_id: str
    amount: float


important_orders = type_filter("order.created") & keyword_filter("amount", lambda x: x > 100)

order_processor_agent = Agent(instructions="Decide what to do with a large order.")

Trigger(name="high-value-orders", filter=important_orders, agent=order_processor_agent)

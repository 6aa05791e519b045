"""An app whose agent has budgets, those that FRUGAL names; copied into the folder of a test."""

import os
from datetime import timedelta

from pydantic_ai import Agent
from pydantic_ai.settings import ModelSettings

from reflex.agent.budgets import Budget
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger

WINDOW = timedelta(seconds=2)
BUDGETS = {
    "windows": [
        Budget(requests=10, per="trigger", window=WINDOW),
        Budget(tokens=250, per="trigger", window=WINDOW),
        Budget(requests=60, per="day"),
    ],
    "one a day": [Budget(requests=1, per="day")],
}

agent = Agent(instructions="Decide.", model_settings=ModelSettings(max_tokens=10))
Trigger("decide", type_filter("order.created"), agent, budgets=BUDGETS[os.environ["FRUGAL"]])

"""An app whose agent has ten tools of every kind; copied into the folder of a test. Each notes outside of the journal
what it does. The process is killed once at each write of the journal, at the worst side of it: after an intent, before
any other step."""

import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic_ai import Agent, RunContext

from reflex.agent import transactional as transactional_calls
from reflex.agent.context import AgentContext
from reflex.agent.effects import Done, NotDone, idempotent, once, pure, transactional
from reflex.agent.filters import type_filter
from reflex.agent.triggers import Trigger
from reflex.core.journal import Step, StepKind, StepStore
from reflex.core.retry import RetryPolicy

FOLDER = Path(__file__).parent
agent = Agent(instructions="Spend.", deps_type=AgentContext)


def noted() -> list[str]:
    try:
        return (FOLDER / "spent.txt").read_text().splitlines()
    except FileNotFoundError:
        return []


def crash_once(step: Step) -> None:
    """End this process, as a power cut would, unless one has ended here before."""
    point = f"{step.kind} {step.fingerprint.hex()} {step.occurrence}"
    crashes = FOLDER / "crashes.txt"
    if crashes.exists() and point in crashes.read_text().splitlines():
        return
    with crashes.open("a") as file:
        file.write(f"{point}\n")
        file.flush()
        os.fsync(file.fileno())
    os.kill(os.getpid(), signal.SIGKILL)


journal_alone: Callable[..., Awaitable[None]] = StepStore.journal
journal_with_writes: Callable[..., Awaitable[None]] = transactional_calls.__dict__["journal_step"]


async def journal(self: StepStore, delivery_id: Any, lease_epoch: int, step: Step) -> None:
    if step.kind is not StepKind.INTENT:
        crash_once(step)
    await journal_alone(self, delivery_id, lease_epoch, step)
    if step.kind is StepKind.INTENT:
        crash_once(step)


async def journal_step(conn: Any, delivery_id: Any, lease_epoch: int, step: Step) -> None:
    await journal_with_writes(conn, delivery_id, lease_epoch, step)
    crash_once(step)  # before the commit


StepStore.journal = journal  # pyright: ignore[reportAttributeAccessIssue]
transactional_calls.__dict__["journal_step"] = journal_step


async def was_spent(ctx: AgentContext, arguments: dict[str, Any], key: str) -> Done | NotDone:
    return Done("done") if any(line.endswith(f" {key}") for line in noted()) else NotDone()


def spender(name: str, metadata: dict[str, Any]) -> None:
    async def spend(run: RunContext[AgentContext]) -> str:
        with (FOLDER / "spent.txt").open("a") as file:
            file.write(f"{name} {run.deps.idempotency_key}\n")
        return "done"

    agent.tool(name=name, metadata=metadata)(spend)


def writer(name: str) -> None:
    async def write(run: RunContext[AgentContext]) -> str:
        await run.deps.connection.execute("INSERT INTO spent VALUES (%s)", (name,))
        return "done"

    agent.tool(name=name, metadata=transactional())(write)


for number in range(3):
    spender(f"once_{number}", once(probe=was_spent))
spender("once_3", once())
for number in range(2):
    spender(f"idempotent_{number}", idempotent())
    spender(f"pure_{number}", pure())
    writer(f"transactional_{number}")

Trigger(
    "spend", type_filter("order.created"), agent, retry=RetryPolicy(max_attempts=500, base=timedelta(milliseconds=50))
)

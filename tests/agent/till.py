"""One delivery whose agent asks a provider over HTTP, attempted by hand as a worker would."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.agent.filters import any_event
from reflex.agent.models import Models
from reflex.agent.progress import Audience
from reflex.agent.publishing import RunLimits
from reflex.agent.triggers import Trigger
from reflex.core.database import connect
from reflex.core.ids import new_id
from reflex.core.journal import StepStore
from reflex.core.queue import exchange, promote_scheduled
from reflex.core.reaping import reap
from reflex.core.registration import Registered
from reflex.core.settlement import Claimed, Settlement
from reflex.worker.attempt import Attempts
from tests.agent.stub_provider import Answer, StubProvider, stub_provider
from tests.queue_fixtures import claim, count, enlisted, publish, shop

__all__ = ["Till", "till"]


@dataclass
class Till:
    """One delivery, attempted by hand as a worker would."""

    conn: AsyncConnection[Any]
    registered: Registered
    steps: StepStore
    provider: StubProvider
    models: Models
    audience: Audience | None = None
    limits: RunLimits = field(default_factory=RunLimits)

    async def attempt(self, agent: Any, **options: Any) -> Settlement:
        """Claim the delivery, run it, settle it."""
        worker_id, lease = await self.claimed()
        settlement = await self.attempts(agent, **options)(lease)
        await exchange(self.conn, worker_id=worker_id, settlements=[settlement], trigger_ids=[], limit=0)
        return settlement

    async def claimed(self) -> tuple[Any, Claimed]:
        await promote_scheduled(self.conn, now=datetime.now(UTC) + timedelta(hours=1))
        worker_id = await enlisted(self.conn, self.registered)
        (lease,) = await claim(self.conn, worker_id, list(self.registered.trigger_ids.values()))
        return worker_id, lease

    async def taken_away(self) -> None:
        """Its worker is declared dead."""
        await reap(self.conn, lease_timeout=timedelta(0), now=datetime.now(UTC) + timedelta(hours=1))

    def attempts(self, agent: Any, **options: Any) -> Attempts:
        trigger = Trigger("pack", any_event(), agent, **options)
        (trigger_id,) = self.registered.trigger_ids.values()
        return Attempts(
            triggers={trigger_id: trigger}, models=self.models, worker_id=new_id(), limits=self.limits,
            steps=self.steps, audience=self.audience,
        )  # fmt: skip

    @property
    def requests(self) -> int:
        return len(self.provider.requests)

    async def journaled(self) -> int:
        return await count(self.conn, "step")

    async def has_two_steps(self) -> bool:
        return await self.journaled() == 2

    async def has_three_steps(self) -> bool:
        return await self.journaled() == 3


@asynccontextmanager
async def till(database_url: str, monkeypatch: pytest.MonkeyPatch, *script: Answer) -> AsyncGenerator[Till]:
    async with stub_provider(*script) as provider, await connect(database_url, name="t") as conn:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-stub-1234567890")
        registered = await shop(conn, max_attempts=5)
        await publish(conn)
        steps, models = StepStore(database_url), Models("openai-chat:stub")
        try:
            yield Till(conn, registered, steps, provider, models)
        finally:
            await steps.aclose()
            await models.aclose()

"""The gateway that most tests talk to: in this process, on a migrated database of the test's own."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from reflex.core.settings import Settings
from reflex.gateway.app import create_app
from tests.gateway.gateways import in_process, settings_for


@pytest.fixture
def settings(database_url: str) -> Settings:
    return settings_for(database_url)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with in_process(create_app(settings)) as client:
        yield client

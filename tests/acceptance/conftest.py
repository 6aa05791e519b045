"""What every acceptance test starts from: a folder with the app, and a look into the database."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reflex.core.database import connect
from tests.acceptance.shop import ACTING, Shop


@pytest.fixture
async def shop(database_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """The app `acting` in a folder of its own, on a database of its own."""
    shutil.copy(ACTING, tmp_path)
    async with await connect(database_url, name="test") as conn:
        yield Shop(database_url, tmp_path, conn)

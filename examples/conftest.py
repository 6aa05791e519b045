"""The examples define the same event types: each test loads its app as if the process were its own."""

import sys
from collections.abc import Iterator

import pytest
from reflex.agent.declarations import constructed
from reflex.core.events import EventRegistry


@pytest.fixture(autouse=True)
def on_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(EventRegistry, "classes", {})
    declared = list(constructed)
    yield
    constructed[:] = declared
    for name in [name for name in sys.modules if name.startswith("examples.") and name.endswith(".app")]:
        del sys.modules[name]

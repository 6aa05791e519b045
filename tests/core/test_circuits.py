"""Circuits in a real database: known to all processes, open after failures in a row, tried by one run only."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from reflex.core.circuits import LONGEST, Blocked, Circuits
from reflex.core.journal import StepStore
from reflex.core.overview import read_overview

MODEL = "openai:stub"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[StepStore]:
    store = StepStore(database_url)
    yield store
    await store.aclose()


async def opened(store: StepStore, *, threshold: int = 3) -> tuple[Circuits, Blocked]:
    circuits = Circuits(store, threshold=threshold)
    for _ in range(threshold - 1):
        assert await circuits.failed(MODEL, "503 overloaded") is None
        assert await circuits.ask(MODEL) is None
    blocked = await circuits.failed(MODEL, "503 overloaded")
    assert blocked is not None
    return circuits, blocked


async def its_time_is_over(db: AsyncConnection[Any]) -> None:
    await db.execute("UPDATE reflex.circuit SET open_until = now() - interval '1 second'")


async def test_failures_in_a_row_open_it_for_every_process(db: AsyncConnection[Any], store: StepStore) -> None:
    """Fails if each process counts for itself: a fleet of a hundred would ask five hundred times."""
    _, blocked = await opened(store)
    assert timedelta(seconds=14) < blocked.duration <= timedelta(seconds=15)
    elsewhere = await Circuits(store, threshold=3).ask(MODEL)
    assert elsewhere is not None
    assert elsewhere.reason == "503 overloaded"
    assert await Circuits(store, threshold=3).ask("openai:another") is None
    (failing,) = (await read_overview(db, lease_timeout=timedelta(seconds=10))).failing_models
    assert (failing.model, failing.failures) == (MODEL, 3)


async def test_an_answer_in_between_begins_the_count_anew(store: StepStore) -> None:
    """Fails if success is not noted: a model that fails once a day would be open in a week."""
    circuits = Circuits(store, threshold=2)
    for _ in range(5):
        assert await circuits.failed(MODEL, "500") is None
        await circuits.succeeded(MODEL)


async def test_failures_long_ago_do_not_count(db: AsyncConnection[Any], store: StepStore) -> None:
    circuits = Circuits(store, threshold=2)
    assert await circuits.failed(MODEL, "500") is None
    await db.execute("UPDATE reflex.circuit SET failed_at = now() - interval '3 minutes'")
    assert await circuits.failed(MODEL, "500") is None
    assert await circuits.failed(MODEL, "500") is not None


async def test_one_tries_when_its_time_is_over_and_the_others_wait(db: AsyncConnection[Any], store: StepStore) -> None:
    """Fails without `probing_until`: a thousand deliveries would fall upon a provider that has just come back."""
    await opened(store)
    await its_time_is_over(db)
    answers = await asyncio.gather(*(Circuits(store, threshold=3).ask(MODEL) for _ in range(8)))
    assert answers.count(None) == 1
    assert all(answer.duration >= timedelta(seconds=1) for answer in answers if answer is not None)


async def test_each_failed_try_doubles_the_time_and_an_answer_ends_it(
    db: AsyncConnection[Any], store: StepStore
) -> None:
    circuits, blocked = await opened(store)
    before = blocked.duration
    for _ in range(3):
        await its_time_is_over(db)
        assert await circuits.ask(MODEL) is None
        again = await circuits.failed(MODEL, "503")
        assert again is not None
        assert again.duration > before * 1.9
        before = again.duration
    await its_time_is_over(db)
    assert await circuits.ask(MODEL) is None
    last = await circuits.failed(MODEL, "503")
    assert last is not None
    assert last.duration <= LONGEST
    await its_time_is_over(db)
    await circuits.succeeded(MODEL)
    assert await Circuits(store, threshold=3).ask(MODEL) is None


async def test_requests_that_were_under_way_when_it_opened_change_nothing(store: StepStore) -> None:
    """Fails if each of a hundred failures doubles the time."""
    circuits, first = await opened(store)
    for _ in range(5):
        again = await circuits.failed(MODEL, "503")
        assert again is not None
        assert again.duration <= first.duration


async def test_it_is_open_for_as_long_as_the_provider_asks(store: StepStore) -> None:
    circuits = Circuits(store, threshold=1)
    blocked = await circuits.failed(MODEL, "429", retry_after=timedelta(seconds=100))
    assert blocked is not None
    assert timedelta(seconds=99) < blocked.duration <= timedelta(seconds=100)


async def test_zero_turns_it_off(store: StepStore) -> None:
    circuits = Circuits(store, threshold=0)
    for _ in range(10):
        assert await circuits.failed(MODEL, "500") is None
    assert await circuits.ask(MODEL) is None

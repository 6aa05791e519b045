"""Tests of incidents: `pytest examples/incident_response`. Nobody is called, and nobody waits for five minutes."""

from datetime import timedelta
from pathlib import Path

import pytest
from reflex.agent.testing import AppTest, FakeModel, MakeAppTest

from examples.incident_response import pager
from examples.incident_response.rehearsed import answer

APP = "examples.incident_response.app"
ALERT = {"summary": "one in three payments fails"}
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pager of the test's own."""
    monkeypatch.setenv("REFLEX_DATA_DIR", str(tmp_path))
    for name in ("DEFAULT_MODEL", "TIME_TO_ANSWER_S"):
        monkeypatch.delenv(name, raising=False)


def rehearse(model: FakeModel) -> None:
    model.on(lambda asked: True, lambda asked: answer(asked.messages, asked.info))


async def says(t: AppTest, type: str, **payload: str) -> None:
    await t.publish(type, payload, key="checkout")
    await t.run()


def called() -> list[str]:
    return [person for person, _ in pager.pages()]


async def test_people_are_called_one_after_the_other_until_one_answers(reflex_app: MakeAppTest) -> None:
    """And the postmortem is written from what the log has. Fails with: a call that is repeated after each wait; alerts
    of one service side by side; a log that is read from the closing event."""
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await says(t, "alert.raised", **ALERT)
        assert called() == ["ann"]
        await t.clock.advance(4 * MINUTE)
        assert called() == ["ann"]
        await t.clock.advance(2 * MINUTE)
        assert called() == ["ann", "ben"]
        assert "checkout: one in three payments fails" in pager.pages()[1][1]
        await says(t, "incident.acknowledged", by="ben")
        await says(t, "alert.raised", summary="payments still fail")
        await t.kill_and_replace()
        await t.clock.advance(20 * MINUTE)
        await says(t, "incident.noted", by="ben", text="rolled back")
        await says(t, "incident.resolved", by="ben", cause="discounts of 100 %")
        assert called() == ["ann", "ben"]
        (closed,) = t.published.of("incident.closed")
        assert closed.model_dump()["called"] == ["ann", "ben"]
        first, second = [run.output for run in t.runs.of("respond") if run.outcome == "succeeded"]
        assert (first, second) == ("resolved", "raised during the last incident")
        written = t.runs.of("postmortem")[0].output
        assert [line.split(maxsplit=1)[1] for line in written["timeline"]] == [
            "incident.acknowledged by=ben",
            "alert.raised summary=payments still fail",
            "incident.noted by=ben text=rolled back",
            "incident.resolved by=ben cause=discounts of 100 %",
        ]
        assert written["cause"] == "discounts of 100 %"
        # Two agents of two requests each: what waits asks nothing again.
        assert len(t.model.requests) == 4


async def test_nobody_answers(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await says(t, "alert.raised", **ALERT)
        await t.clock.advance(16 * MINUTE)
        assert called() == ["ann", "ben", "mara, the manager"]
        assert [run.output for run in t.runs if run.outcome == "succeeded"] == ["not acknowledged"]
        assert t.runs.of("postmortem").outcomes == ["skipped"]


async def test_an_alert_that_is_over_by_itself_needs_nobody_else(reflex_app: MakeAppTest) -> None:
    """It is over before anybody was called. Fails with: a wait that begins at the call."""
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await t.publish("alert.raised", ALERT, key="checkout")
        await says(t, "incident.resolved", by="monitoring")
        assert called() == ["ann"]
        assert t.runs.of("respond").outcomes == ["succeeded"]
        assert t.runs.of("postmortem")[0].output["cause"] == "unknown"
        # The next one is another incident.
        await says(t, "alert.raised", **ALERT)
        assert called() == ["ann", "ann"]


async def test_nobody_is_woken_for_what_can_wait(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await says(t, "alert.raised", summary="the disk is 80 % full")
        assert (called(), t.published.types) == ([], [])

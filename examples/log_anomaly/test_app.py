"""Tests of log anomalies: `pytest examples/log_anomaly`. Nobody waits for a minute."""

from datetime import timedelta

import pytest
from reflex.testing.app import AppTest
from reflex.testing.model import FakeModel
from reflex.testing.plugin import MakeAppTest

from examples.log_anomaly.rehearsed import answer

APP = "examples.log_anomaly.app"


@pytest.fixture(autouse=True)
def as_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEFAULT_MODEL", "DIGEST_EVERY_S"):
        monkeypatch.delenv(name, raising=False)


def rehearse(model: FakeModel) -> None:
    model.on(lambda asked: True, lambda asked: answer(asked.messages, asked.info))


async def logs(t: AppTest, service: str, *messages: str, level: str = "error") -> None:
    for message in messages:
        await t.publish("log.line", {"level": level, "message": message}, key=service)
    await t.run()


async def test_many_errors_of_a_service_are_looked_at_once(reflex_app: MakeAppTest) -> None:
    """Fails with: a threshold for all services together, one that fires for each further error, and one that counts
    what is no error."""
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await logs(t, "checkout", "payments: connection refused", "payments: connection refused", "card declined")
        await logs(t, "payments", "ledger is slow", "ledger is slow")
        await logs(t, "checkout", *["cart opened"] * 5, level="info")
        assert t.published.types == []
        await t.kill_and_replace()
        await logs(t, "checkout", *["payments: connection refused"] * 4)
        (found,) = t.published.of("anomaly.found")
        assert (found.meta and found.meta.key, found.model_dump()["lines"]) == ("checkout", 5)
        finding = next(run.output for run in t.runs.of("root-cause") if run.outcome == "succeeded")
        assert finding["cause"] == "payments: version 87, 4 minutes ago: new connection pool"
        assert finding["evidence"] == ["4 times: payments: connection refused", "1 times: card declined"]
        assert t.runs.of("on-call").outcomes == ["succeeded"]


async def test_the_next_time_it_is_looked_at_again_and_nobody_is_called_twice(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await logs(t, "checkout", *["no answer"] * 5)
        await t.clock.advance(timedelta(minutes=10))
        await logs(t, "checkout", *["no answer"] * 5)
        assert t.published.types == ["anomaly.found"] * 2
        assert t.runs.of("on-call").outcomes == ["succeeded", "skipped"]
        await t.clock.advance(timedelta(minutes=30))
        await logs(t, "checkout", *["no answer"] * 5)
        assert t.runs.of("on-call").outcomes == ["succeeded", "skipped", "succeeded"]


async def test_there_is_a_digest_of_forty_lines_or_of_half_a_minute(reflex_app: MakeAppTest) -> None:
    """Every line is in one. Fails with: a batch for each service."""
    async with reflex_app(APP) as t:
        rehearse(t.model)
        for service in ("checkout", "payments"):
            await logs(t, service, *["request served"] * 30, level="info")
        await logs(t, "catalogue", "index is stale", "index is stale")
        digests = [run.output for run in t.runs.of("digest") if run.outcome == "succeeded"]
        assert digests == [{"headline": "40 lines, all quiet", "worth_a_look": []}]
        await t.clock.advance(timedelta(seconds=30))
        last = [run.output for run in t.runs.of("digest") if run.outcome == "succeeded"][1:]
        assert last == [
            {
                "headline": "22 lines, 2 of them errors",
                "worth_a_look": ["request served (20)", "index is stale (2)"],
            }
        ]

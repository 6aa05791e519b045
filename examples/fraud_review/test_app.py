"""Tests of the fraud review: `pytest examples/fraud_review`. The database is a real one, and days pass at once."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from reflex.agent.testing import AppTest, FakeModel, MakeAppTest
from reflex.core.database import connect

from examples.fraud_review import outside
from examples.fraud_review.rehearsed import answer

APP = "examples.fraud_review.app"
USUAL = {"payment_id": "P1", "card": "4000-17", "cents": 4_000}
ODD = {**USUAL, "payment_id": "P2", "cents": 90_000}
LARGE = {**USUAL, "payment_id": "P3", "cents": 250_000}
DONE = (["reject P2", "freeze 4000-17"], ["to ada: We have rejected a payment and frozen your card. Please call us."])


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank and a post office of the test's own."""
    monkeypatch.setenv("REFLEX_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("DEFAULT_MODEL", raising=False)


def rehearse(model: FakeModel) -> None:
    model.on(lambda asked: True, lambda asked: answer(asked.messages, asked.info))


async def verdicts(t: AppTest) -> list[tuple[str, str]]:
    async with await connect(t.database_url, name="test") as conn:
        found = await conn.execute("SELECT payment_id, decision FROM public.fraud_verdict ORDER BY written_at")
        return await found.fetchall()


async def test_a_payment_out_of_line_is_rejected_and_one_in_line_is_not(reflex_app: MakeAppTest) -> None:
    """The second review is told the figures of the first. Fails with: a state that is not written; a tool left out."""
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await t.publish("payment.made", USUAL, key="ada")
        await t.publish("payment.made", ODD, key="ada")
        await t.run()
        assert [run.output["decision"] for run in t.runs.of("fraud-review")] == ["accept", "reject"]
        assert [event.payload_json() for event in t.published] == [
            '{"payment_id":"P1","decision":"accept","reason":"in line with what the card was used for"}',
            '{"payment_id":"P2","decision":"reject","reason":"far more than the card was ever used for"}',
        ]
        assert outside.everything() == DONE
        assert await verdicts(t) == [("P1", "accept"), ("P2", "reject")]
        figures = '"customer":{"payments":1,"cents":4000,"rejected":0,"last_verdict":"accept"}'
        assert figures in t.model.requests[-1].prompt


@pytest.mark.parametrize("approve", [True, False])
async def test_a_person_decides_about_a_large_payment(reflex_app: MakeAppTest, approve: bool) -> None:
    """And the customer's next payment waits for that. Fails with: a rejection that needs no approval; a trigger that is
    not ordered; a model that cannot tell a denied call."""
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await t.publish("payment.made", LARGE, key="ada")
        await t.publish("payment.made", USUAL, key="ada")
        await t.run()
        (asked,) = await t.approvals()
        assert t.runs.of("fraud-desk")[0].output == str(asked.id)
        assert (asked.tool, asked.metadata and asked.metadata.value["cents"]) == ("reject_payment", 250_000)
        assert (outside.everything(), t.runs.of("fraud-review").outcomes) == (([], []), ["waiting"])
        await t.decide(asked, approve=approve, reason=None if approve else "she has called us", by="ann")
        await t.run()
        assert t.runs.of("fraud-review").outcomes == ["waiting", "succeeded", "succeeded"]
        orders, letters = outside.everything()
        assert orders == (["reject P3", "freeze 4000-17"] if approve else [])
        assert len(letters) == approve
        first, second = [run.output for run in t.runs.of("fraud-review")[1:]]
        assert first["decision"] == ("reject" if approve else "accept")
        assert ("she has called us" in first["reason"]) is not approve
        assert second["decision"] == "accept"
        # Nothing was asked twice because of the wait.
        assert len(t.model.requests) == (6 if approve else 4) + 3


async def test_what_nobody_decides_is_let_through_after_two_days(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await t.publish("payment.made", LARGE, key="ada")
        await t.clock.advance(timedelta(days=2, minutes=1))
        (reviewed,) = t.published.of("payment.reviewed")
        assert '"accept","reason":"The call was not made: nobody approved it' in reviewed.payload_json()
        assert outside.everything() == ([], [])


async def test_a_customer_of_many_payments_waits_until_the_next_day(reflex_app: MakeAppTest) -> None:
    """Thirty requests a customer and a day are ten ordinary payments. Fails with: no budget; one for all customers."""
    async with reflex_app(APP) as t:
        rehearse(t.model)
        payments = [{**USUAL, "payment_id": f"P{number}"} for number in range(11)]
        *_, last = [await t.publish("payment.made", payment, key="ada") for payment in payments]
        other = await t.publish("payment.made", USUAL, key="grace")
        await t.run()
        ((waiting,), (reviewed,)) = [await t.deliveries(event) for event in (last, other)]
        assert (waiting.state, reviewed.state) == ("waiting", "succeeded")
        assert "30 requests a key in 1 day" in str(waiting.waiting_for)
        await t.clock.advance(timedelta(days=1))
        assert (await t.deliveries(last))[0].state == "succeeded"


async def test_a_crash_at_any_step_freezes_rejects_and_writes_once(crash_at_every_step: Any) -> None:
    """The bank knows the keys of its orders, so those may be given again; the letter is looked for. Fails with a letter
    declared idempotent, or without its probe; with a bank that does not look at the key."""
    seen: list[Any] = []

    def start_anew() -> None:
        seen.append(outside.everything())
        outside.forget_everything()

    report = await crash_at_every_step(
        APP, "payment.made", ODD, key="ada", script=rehearse, before_each=start_anew,
        repeatable={"reject_payment", "freeze_card"},
    )  # fmt: skip
    assert report.ok, report
    assert len(report.points) > 20
    assert all(found == DONE for found in seen[1:])

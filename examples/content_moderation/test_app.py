"""Tests of content moderation: `pytest examples/content_moderation`."""

from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from reflex.testing.app import AppTest
from reflex.testing.model import FakeModel
from reflex.testing.plugin import MakeAppTest

from examples.content_moderation.rehearsed import answer

APP = "examples.content_moderation.app"
numbers = count(1)


@pytest.fixture(autouse=True)
def without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEFAULT_MODEL", raising=False)


def rehearse(model: FakeModel) -> None:
    model.on(lambda asked: True, lambda asked: answer(asked.messages, asked.info))


async def posts(t: AppTest, user: str, *texts: str) -> None:
    for text in texts:
        await t.publish("post.created", {"post_id": f"P{next(numbers)}", "text": text}, key=user)
    await t.run()


def measures(t: AppTest) -> list[tuple[str | None, str]]:
    """What was done, about whom."""
    return [(event.meta and event.meta.key, event.type) for event in t.published if event.type.startswith("user.")]


async def test_a_user_is_warned_then_muted_then_banned(reflex_app: MakeAppTest) -> None:
    """Fails with: a record of all users, strikes that run side by side, and a ban that goes on."""
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await posts(t, "eve", "What a stupid idea", "buy now: mugs", "you morons", "you idiots")
        await posts(t, "bob", "shut up", "I like mugs")
        assert measures(t) == [
            ("eve", "user.warned"), ("eve", "user.muted"), ("eve", "user.banned"), ("bob", "user.warned"),
        ]  # fmt: skip
        assert t.runs.of("enforce")[3].output == "banned before"


async def test_a_threat_is_a_ban_at_once_and_time_heals_the_rest(reflex_app: MakeAppTest) -> None:
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await posts(t, "mallory", "I will find you")
        await posts(t, "eve", "you idiot")
        await t.clock.advance(timedelta(days=31))
        await posts(t, "eve", "you idiot, I said")
        assert measures(t) == [("mallory", "user.banned"), ("eve", "user.warned"), ("eve", "user.warned")]


async def test_what_is_said_again_is_judged_once_and_a_flood_is_not_paid_for(reflex_app: MakeAppTest) -> None:
    """Thirty different posts and five equal ones: twenty-one judgements, and one strike for the flood. Fails with: a
    duplicate that counts for the rate limit, and a flood that is one again with each further post."""
    async with reflex_app(APP) as t:
        rehearse(t.model)
        await posts(t, "eve", *["I like mugs"] * 5, *[f"mug number {n}" for n in range(30)])
        await posts(t, "bob", "I like mugs")
        assert len(t.model.requests) == 21
        assert t.published.types == ["flood.detected", "user.warned"]
        skipped = [run.error or "" for run in t.runs.of("judge") if run.outcome == "skipped"]
        assert len([error for error in skipped if error.startswith("duplicate")]) == 4
        assert len([error for error in skipped if error.startswith("rate limited: 20 per 0:01:00")]) == 11
        await t.clock.advance(timedelta(minutes=1))
        await posts(t, "eve", "mug number 31")
        assert len(t.model.requests) == 22


async def test_a_strike_survives_every_crash(crash_at_every_step: Any) -> None:
    """Fails with: what is let through being decided anew by who takes over."""
    report = await crash_at_every_step(
        APP, "post.created", {"post_id": "P1", "text": "you idiot"}, key="eve", script=rehearse
    )
    assert report.ok, report

"""Tests of the example: a minute passes when the test says so."""

from datetime import timedelta

from reflex.agent.testing import MakeAppTest

from examples.reminders import ReminderDue


async def test_the_clock_reminds_and_a_busy_server_is_tried_again(reflex_app: MakeAppTest) -> None:
    async with reflex_app("examples.reminders") as t:
        await t.clock.advance(timedelta(seconds=90))
        assert t.runs.of("reminders").outcomes == ["retry", "succeeded"]
        assert t.runs[-1].output == "reminded ada@example.com of water the plants"


async def test_who_has_no_address_is_a_dead_letter(reflex_app: MakeAppTest) -> None:
    async with reflex_app("examples.reminders") as t:
        await t.publish(ReminderDue(who="ada", what="sleep"))
        await t.run()
        assert t.runs.of("reminders").outcomes == ["dead"]
        assert "no address" in (t.dead_letters[0].error or "")

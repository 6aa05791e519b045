"""Triggers that cause one another: promise 12."""

from tests.acceptance.shop import Shop


async def test_two_triggers_that_cause_one_another_stop_at_the_cap_with_a_dead_letter_that_says_so(shop: Shop) -> None:
    """Fails with: a chain that is not counted, or whose end is not a failure."""
    async with shop.worker(max_depth=4):
        ping = {"publish": "chain.pong", "then": {"publish": "chain.ping"}}
        for _ in range(3):  # what each event tells the next one to publish, longer than the cap allows
            ping = {"publish": "chain.pong", "then": {"publish": "chain.ping", "then": ping}}
        (first,) = await shop.publish(ping, type="chain.ping")
        await shop.is_quiet()
        await shop.becomes("succeeded", first)
    chain = await (
        await shop.conn.execute("SELECT depth, type FROM reflex.event WHERE type LIKE 'chain.%' ORDER BY depth")
    ).fetchall()
    assert chain == [(0, "chain.ping"), (1, "chain.pong"), (2, "chain.ping"), (3, "chain.pong"), (4, "chain.ping")]
    letters = await (await shop.conn.execute("SELECT reason, attempt, error FROM reflex.dead_letter")).fetchall()
    assert [(reason, attempt) for reason, attempt, _ in letters] == [("publish", 1)]
    error = letters[0][2]
    for said in ("'ping'", "chain.ping", "REFLEX_MAX_DEPTH", str(first)):
        assert said in error

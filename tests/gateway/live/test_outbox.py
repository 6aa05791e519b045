"""What waits for one client."""

import asyncio

import pytest

from reflex.core.cursors import Cursor
from reflex.gateway.live.outbox import SENT_AT_ONCE_CHARS, SLOW, Outbox, OutboxClosed, Waiting, portions


class Client:
    sent: Cursor | None = None


def frames(taken: object) -> list[str]:
    assert isinstance(taken, list)
    return [frame for frame, _, _ in taken]


async def test_frames_come_out_in_the_order_in_which_they_went_in_with_whose_they_are() -> None:
    """Fails with: appendleft(), a put that goes before what was offered, a reader or a cursor that is not kept."""
    outbox = Outbox(max_frames=10, max_chars=100)
    client = Client()
    outbox.offer("a", client, Cursor(1, 1))
    await outbox.put("b")
    outbox.offer("c", client, Cursor(1, 2))
    assert await outbox.take() == [("a", client, Cursor(1, 1)), ("b", None, None), ("c", client, Cursor(1, 2))]
    outbox.offer("d")
    assert frames(await outbox.take()) == ["d"]


@pytest.mark.parametrize(
    ("bounds", "offered"),
    [((3, 1000), ["x"] * 3), ((1000, 3), ["x"] * 3), ((1000, 10), ["x" * 4, "x" * 6])],
    ids=["frames", "characters", "long frames"],
)
async def test_an_offer_beyond_the_bound_closes_as_slow_and_drops_what_waits(
    bounds: tuple[int, int], offered: list[str]
) -> None:
    """Fails with: a bound that is one off, or is not looked at; frames of a slow client that are kept."""
    max_frames, max_chars = bounds
    outbox = Outbox(max_frames=max_frames, max_chars=max_chars)
    for frame in offered:
        assert outbox.has_room(len(frame))
        outbox.offer(frame)
    assert outbox.closed is None
    assert not outbox.has_room(1)
    outbox.offer("x")
    assert outbox.closed == SLOW
    outbox.offer("after")
    with pytest.raises(OutboxClosed, match=SLOW):
        await outbox.take()


async def test_one_frame_of_any_size_has_room_in_an_empty_outbox_and_no_second_one_beside_it() -> None:
    """Fails with: a frame that is larger than the outbox and so can never be sent; room that is counted wrongly after
    a take."""
    outbox = Outbox(max_frames=10, max_chars=10)
    outbox.offer("x" * 1000)
    assert outbox.closed is None
    assert not outbox.has_room(1)
    assert frames(await outbox.take()) == ["x" * 1000]
    assert outbox.has_room(5, frames=2)
    assert not outbox.has_room(11, frames=2)
    assert not outbox.has_room(0, frames=11)
    await outbox.put("x" * 1000)
    outbox.offer("x")
    assert outbox.closed == SLOW


async def test_a_put_waits_for_room_and_goes_on_when_something_is_taken() -> None:
    """Fails with: a put that closes as slow, or that is not woken by a take."""
    outbox = Outbox(max_frames=2, max_chars=100)
    put = list[int]()

    async def put_all() -> None:
        for number in range(7):
            await outbox.put(str(number))
            put.append(number)

    putting = asyncio.create_task(put_all())
    taken = list[str]()
    while len(taken) < 7:
        await settle()
        assert len(put) <= len(taken) + 2, "no more than the bound waits"
        taken += frames(await outbox.take())
    await putting
    assert taken == [str(number) for number in range(7)]


async def test_closing_wakes_who_puts_and_who_takes_and_what_waits_is_still_sent() -> None:
    """Fails with: a close that wakes nobody, that drops what waits, or whose reason a later one changes."""
    outbox = Outbox(max_frames=1, max_chars=100)
    outbox.offer("last")
    putting = asyncio.create_task(outbox.put("too late"))
    await settle()
    outbox.close("stopping")
    outbox.close(SLOW)
    with pytest.raises(OutboxClosed, match="stopping"):
        await putting
    assert frames(await outbox.take()) == ["last"]
    with pytest.raises(OutboxClosed, match="stopping"):
        await outbox.take()
    empty = Outbox(max_frames=1, max_chars=100)
    taking = asyncio.create_task(empty.take())
    await settle()
    empty.close("lost")
    with pytest.raises(OutboxClosed, match="lost"):
        await taking


async def test_a_take_that_is_cancelled_loses_nothing() -> None:
    """Fails with: frames that are removed before the last await."""
    outbox = Outbox(max_frames=10, max_chars=100)
    taking = asyncio.create_task(outbox.take())
    await settle()
    outbox.offer("a")
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    outbox.offer("b")
    assert frames(await outbox.take()) == ["a", "b"]


async def test_a_take_finds_nothing_only_if_nothing_waits() -> None:
    """An event that comes when the time is up, in the same turn of the loop: who then believes that nothing waits names
    a place in the log behind it. Fails with: a take that gives nothing whenever its time is up."""
    outbox = Outbox(max_frames=10, max_chars=100)
    assert frames(await outbox.take(within_s=0)) == []
    loop = asyncio.get_running_loop()
    for offered_s in (0.05, 0.04999, 0.05001):
        taking = asyncio.create_task(outbox.take(within_s=0.05))
        await asyncio.sleep(0)
        loop.call_later(offered_s, outbox.offer, "at that moment")
        await asyncio.sleep(0)
        # Both are due when the loop looks again.
        block_until(loop.time() + 0.06)
        assert frames(await taking) == ["at that moment"]


def test_what_is_handed_to_a_connection_at_once_is_bounded_and_nothing_is_left_out() -> None:
    """Fails with: a last portion that is forgotten, an empty first one before a large frame."""
    half, huge = SENT_AT_ONCE_CHARS // 2, SENT_AT_ONCE_CHARS * 3
    for sizes in ([], [1], [huge], [huge, huge], [half, half, 1], [1, huge, 1], [half, half - 1, half, 7]):
        waiting: list[Waiting] = [(str(number) * size, None, None) for number, size in enumerate(sizes)]
        pieces = list(portions(waiting))
        assert [entry for piece in pieces for entry in piece] == waiting
        assert all(pieces)
        assert all(
            len(piece) == 1 or sum(len(frame) for frame, _, _ in piece) <= SENT_AT_ONCE_CHARS for piece in pieces
        )


def block_until(time: float) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < time:
        pass


async def settle() -> None:
    """Until everything that can go on has stopped."""
    for _ in range(5):
        await asyncio.sleep(0)

"""`reflex tail` and `reflex send --wait` beside real gateways and workers."""

import asyncio
import fcntl
import os
import signal
import struct
import sys
import termios
from asyncio.subprocess import PIPE

import orjson

from tests.acceptance.shop import Shop
from tests.cli.test_commands import reflex, shop
from tests.processes import eventually, free_port, gateway, reflex_process, sessions

__all__ = ["shop"]


async def test_tail_goes_on_through_a_killed_gateway_and_misses_nothing(shop: Shop) -> None:
    """Fails with: a reconnection without the cursor (the event of the outage is missing), or from the first one."""
    port = free_port()
    command = ("tail", "order.*", "--json", "--count", "3", "--url", f"http://127.0.0.1:{port}")
    async with (
        gateway(shop.database_url, shop.folder, port=port) as first,
        reflex_process(*command, folder=shop.folder, name="tail") as tail,
    ):
        await eventually(lambda: readers(shop), what="a reader")
        published = await shop.publish({"n": 1})
        await shop.publish({}, type="weather.changed")
        await tail.says(str(published[0]))
        await first.kill()
        published += await shop.publish({"n": 2})
        await tail.says("connecting again")
        async with gateway(shop.database_url, shop.folder, port=port):
            await tail.says(str(published[1]))
            published += await shop.publish({"n": 3})
            assert await tail.exited() == 0
        lines = [orjson.loads(line) for line in tail.log.splitlines() if line.startswith("{")]
    assert [line["event"]["id"] for line in lines] == [str(id) for id in published]
    assert len({line["cursor"] for line in lines}) == 3


async def test_tail_prints_lines_for_people_and_says_how_to_go_on(shop: Shop) -> None:
    """Fails if Ctrl-C leaves a traceback, or no cursor."""
    async with gateway(shop.database_url, shop.folder) as front:
        async with reflex_process("tail", "--url", front.url, folder=shop.folder, name="tail") as tail:
            await eventually(lambda: readers(shop), what="a reader")
            await shop.publish({"n": 1})
            await tail.says('{"n":1}')
            tail.send(signal.SIGINT)
            assert await tail.exited() == 0
        line, said = tail.log.splitlines()
        assert line.split()[1:] == ["order.created", "test", '{"n":1}']
        cursor = said.removeprefix("to go on from here: --after ")
        (following,) = await shop.publish({"n": 2})
        more = await reflex("tail", "--json", "--after", cursor, "--count", "1", "--url", front.url, folder=shop.folder)
        assert more.json["event"]["id"] == str(following)
        refused = await reflex("tail", "--after", "nonsense", "--url", front.url, folder=shop.folder)
        assert (refused.code, refused.output) == (1, "")
        assert "no cursor" in refused.error
    nobody = await reflex("tail", "--url", front.url, folder=shop.folder)
    assert nobody.code == 1
    assert f"no gateway answers at {front.url}" in nobody.error


INTERRUPTED = """
import signal, sys, threading
from reflex.cli.tailing import Tail

def interrupt():
    sys.stdin.read(1)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
Tail(sys.argv[1], {}, after=None, as_json=False).follow()
"""


async def test_tail_hears_a_signal_that_does_not_interrupt_its_waiting(shop: Shop) -> None:
    """As one that comes just before it waits for the gateway: here it hits another thread. Fails when it is heard only
    when the gateway says something."""
    env = {"REFLEX_LIVE_HEARTBEAT_S": "60"}
    async with gateway(shop.database_url, shop.folder, env=env) as front:
        tail = await asyncio.create_subprocess_exec(
            sys.executable, "-c", INTERRUPTED, front.url, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        try:
            assert tail.stdin
            assert tail.stdout
            await eventually(lambda: readers(shop), what="a reader")
            await shop.publish({"n": 1})
            assert b'{"n":1}' in await tail.stdout.readline()
            tail.stdin.write(b"!")
            _, said = await asyncio.wait_for(tail.communicate(), 10)
        finally:
            if tail.returncode is None:
                tail.kill()
                await tail.wait()
        assert (tail.returncode, said.split()[0:5]) == (0, b"to go on from here:".split())


async def test_tail_ends_at_the_first_ctrl_c_while_nobody_reads_what_it_prints(shop: Shop) -> None:
    """Fails when the signal waits for its turn in an event loop, which the printing holds up; or when Python writes at
    its end what it could not write before."""
    reading, writing = os.pipe()
    async with gateway(shop.database_url, shop.folder) as front:
        command = ("-m", "reflex.cli.main", "tail", "--url", front.url)
        # As people have it: unbuffered, Python holds nothing back.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        tail = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=writing, env=env)
        try:
            await eventually(lambda: readers(shop), what="a reader")
            await shop.publish(*[{"x": "y" * 1000} for _ in range(200)])
            await eventually(lambda: is_full(reading), what="a pipe that is full")
            tail.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(tail.wait(), 10) == 0
        finally:
            if tail.returncode is None:
                tail.kill()
                await tail.wait()
            os.close(reading)
            os.close(writing)


async def is_full(pipe: int) -> bool:
    """Whether so much is in it, and nothing more comes, that who writes must be waiting."""
    before = unread(pipe)
    await asyncio.sleep(0.3)
    return unread(pipe) == before > 40_000


def unread(pipe: int) -> int:
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


async def test_send_waits_for_what_the_deliveries_come_to(shop: Shop) -> None:
    async with gateway(shop.database_url, shop.folder) as front, shop.worker():
        send = ("send", "--url", front.url, "--wait", "20")
        done, dead, nobody, late = await asyncio.gather(
            reflex(*send, "order.created", "{}", folder=shop.folder),
            reflex(*send, "order.created", '{"fail": "told to"}', folder=shop.folder),
            reflex(*send, "weather.changed", folder=shop.folder),
            reflex(*send[:-1], "0.2", "order.created", '{"sleep_s": 3}', folder=shop.folder),
        )
    assert done.output.splitlines()[1:] == ['pack  succeeded  {"attempt":1}']
    assert dead.output.splitlines()[1].startswith("pack  dead  RuntimeError: told to fail: told to")
    assert nobody.output.splitlines()[1:] == ["no trigger matches it"]
    assert late.output.splitlines()[1].startswith("not settled within 0.2 s; see GET /events/")


async def readers(shop: Shop) -> int:
    """How many connections follow the log because somebody reads it: the last statement of one that does is a read."""
    return await sessions(shop.database_url, "reflex gateway: follow", "-- read_log%")

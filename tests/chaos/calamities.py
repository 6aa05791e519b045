"""What can befall a fleet, and a plan of it that a seed repeats: what, whom, when and for how long."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.fleet import LEASE_TIMEOUT_S, Fleet, Member

__all__ = ["CALAMITIES", "Blow", "plan"]

Befall = Callable[[Fleet, Member, float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Blow:
    """One calamity: whom it strikes, and for which part of the time that it may last."""

    at_s: float
    calamity: str
    target: int
    lasts: float


def plan(seed: int, seconds: float) -> list[Blow]:
    """The blows of a run. They are dealt from a shuffled deck: none is left out for long."""
    draw = random.Random(seed)

    def dealt() -> Iterator[str]:
        while True:
            deck = [name for name, (_, cards) in CALAMITIES.items() for _ in range(cards)]
            draw.shuffle(deck)
            yield from deck

    blows: list[Blow] = []
    at_s = draw.uniform(0.5, 1)
    for calamity in dealt():
        if at_s >= seconds:
            return blows
        blows.append(Blow(round(at_s, 2), calamity, draw.randrange(1000), round(draw.random(), 2)))
        at_s += draw.uniform(0.2, 1.4)
    raise AssertionError


async def kill(fleet: Fleet, member: Member, lasts: float) -> None:
    await member.kill()
    await asyncio.sleep(lasts)
    member.start()


async def drain(fleet: Fleet, member: Member, lasts: float) -> None:
    """What a deployment does."""
    code = await member.drain()
    # 1: its database did not answer while it drained. SIGTERM: it had not even begun.
    if code not in (0, 1, -signal.SIGTERM):
        fleet.complaints.append(f"{member.name} ended with {code} when it was told to stop")
    member.start()


async def freeze(fleet: Fleet, member: Member, lasts: float) -> None:
    """Longer than a lease lasts: its deliveries are someone else's when it wakes."""
    member.running.freeze()
    await asyncio.sleep(LEASE_TIMEOUT_S * (1.2 + lasts))
    member.running.thaw()


async def cut(fleet: Fleet, member: Member, lasts: float) -> None:
    await member.proxy.cut()


async def black_hole(fleet: Fleet, member: Member, lasts: float) -> None:
    await member.proxy.blackhole()
    await asyncio.sleep(0.2 + lasts * LEASE_TIMEOUT_S * 2)
    await member.proxy.pass_through()


async def strand(fleet: Fleet, member: Member, lasts: float) -> None:
    """Not even healing ends this one: whoever waits for these connections has to give them up."""
    member.proxy.strand()


async def stall(fleet: Fleet, member: Member, lasts: float) -> None:
    await member.proxy.freeze()
    await asyncio.sleep(lasts * LEASE_TIMEOUT_S * 2)
    await member.proxy.pass_through()


async def refuse(fleet: Fleet, member: Member, lasts: float) -> None:
    await member.proxy.refuse()
    await asyncio.sleep(lasts * 2)
    await member.proxy.pass_through()


async def slow_down(fleet: Fleet, member: Member, lasts: float) -> None:
    await member.proxy.delay(0.02 + lasts * 0.2)
    await asyncio.sleep(2)
    await member.proxy.delay(0)


async def restart_server(fleet: Fleet, blow: Blow) -> None:
    async with fleet.server_turn:
        fleet.server.stop()
        await asyncio.sleep(blow.lasts)
        fleet.server.start()


async def crash_server(fleet: Fleet, blow: Blow) -> None:
    async with fleet.server_turn:
        fleet.crash_server(signal.SIGQUIT if blow.lasts < 0.5 else signal.SIGKILL)
        fleet.server.start()


async def on_a(role: str, fleet: Fleet, blow: Blow, befall: Befall) -> None:
    """Let it befall one of the role; what is down already is left alone."""
    members: list[Member] = getattr(fleet, role)
    member = members[blow.target % len(members)]
    async with member.turn:
        if member.running.is_running:
            await befall(fleet, member, blow.lasts)


def one_of(role: str, befall: Befall) -> Callable[[Fleet, Blow], Awaitable[None]]:
    return lambda fleet, blow: on_a(role, fleet, blow, befall)


# By name: what happens, and how many cards of it are in the deck.
CALAMITIES: Final[dict[str, tuple[Callable[[Fleet, Blow], Awaitable[None]], int]]] = {
    "worker killed": (one_of("workers", kill), 3),
    "worker frozen": (one_of("workers", freeze), 3),
    "worker drained": (one_of("workers", drain), 1),
    "gateway killed": (one_of("gateways", kill), 1),
    "gateway frozen": (one_of("gateways", freeze), 1),
    "gateway drained": (one_of("gateways", drain), 1),
    "connections cut": (one_of("members", cut), 3),
    "connections in a black hole": (one_of("members", black_hole), 3),
    "connections stalled": (one_of("members", stall), 1),
    "connections stranded": (one_of("members", strand), 1),
    "connections refused": (one_of("members", refuse), 1),
    "connections slow": (one_of("members", slow_down), 1),
    "PostgreSQL restarted": (restart_server, 1),
    "PostgreSQL crashed": (crash_server, 1),
}

"""Stopping: the first SIGTERM or SIGINT asks for a drain, the second ends it at once, and a clock ends what hangs."""

import asyncio
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import structlog

__all__ = ["Stopping"]

# After the grace, and after a second signal: what is left to cancel runs, settle and sign off.
LAST_WORDS_S: Final = 10.0
HURRY_S: Final = 3.0


class Stopping:
    """What a process was told about its end."""

    def __init__(self, grace_s: float) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        self.grace_s = grace_s
        self.loop = asyncio.get_running_loop()

    @contextmanager
    def installed(self) -> Generator[None]:
        """Handle SIGTERM and SIGINT inside the block."""
        # signal.signal, not loop.add_signal_handler: agent code may block the event loop for minutes, and then only
        # a handler that runs between two bytecodes is heard.
        before = {number: signal.signal(number, self.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_signal(self, number: int, _: FrameType | None) -> None:
        second = self.asked.is_set()
        # Set here as well as in the loop: a loop that is blocked must not take a second signal for the first.
        self.asked.set()
        if second:
            self.hurry.set()
        self.loop.call_soon_threadsafe(lambda: None)  # wakes a loop that sleeps in select()
        self.end_after(HURRY_S if second else self.grace_s + LAST_WORDS_S)

    def end_after(self, seconds: float) -> None:
        """End the process if it is still there then: its leases are reaped, which beats hanging for ever."""

        def end() -> None:
            structlog.get_logger().error("the drain hangs (agent code that blocks?): the process ends without it")
            os._exit(1)

        clock = threading.Timer(seconds, end)
        clock.daemon = True
        clock.start()

    async def wait(self, seconds: float) -> None:
        """Sleep, but not past being asked to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self.asked.wait()
        except TimeoutError:
            pass

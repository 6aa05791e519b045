"""The numbers of several worker processes under one supervisor, as one answer.

    scrape ──► supervisor ──a byte──► each process
                    ▲──── its readings as JSON ────┘

A process that is gone leaves what it had counted when it was last asked: sums do not fall because one was killed.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import orjson

from reflex.core.metrics import FAMILIES, Kind
from reflex.core.series import Distribution, Exemplar, Reading, merged

__all__ = ["GroupMetrics", "Member", "answer_supervisor", "has_supervisor"]

# How a process knows the descriptor of its socket. Not a setting: only the supervisor says it.
DESCRIPTOR: Final = "REFLEX_METRICS_FD"
ANSWER_S: Final = 1.0
LENGTH_BYTES: Final = 8
PIECE_BYTES: Final = 65536


def has_supervisor() -> bool:
    """Whether the process that started this one asks for its readings."""
    return DESCRIPTOR in os.environ


def answer_supervisor(read: Callable[[], Sequence[Reading]]) -> None:
    """Answer the supervisor from a thread, for as long as both are there. Called once."""
    # What an agent starts must not think that it is meant.
    sock = socket.socket(fileno=int(os.environ.pop(DESCRIPTOR)))
    sock.set_inheritable(False)

    def answer() -> None:
        with sock:
            while number := sock.recv(1):
                body = number + orjson.dumps(read(), default=tuple)
                sock.sendall(len(body).to_bytes(LENGTH_BYTES, "big") + body)

    threading.Thread(target=answer, name="metrics", daemon=True).start()


class Member:
    """One process: where it is asked, and what it last said."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.known: list[Reading] = []
        self._number = 0
        self._heard = bytearray()

    @property
    def environment(self) -> dict[str, str]:
        """What the process has to be started with, beside the descriptor of `theirs`."""
        return {DESCRIPTOR: str(self.theirs.fileno())}

    def started(self) -> None:
        """The process has its end now."""
        self.theirs.close()

    def ask(self) -> None:
        self._number = (self._number + 1) % 256
        self._try(lambda: self.ours.send(bytes([self._number])))

    def hear(self) -> bool:
        """Take in what has come. False: the answer to the last question is still to come."""
        while piece := self._try(lambda: self.ours.recv(PIECE_BYTES)):
            self._heard += piece
        while len(self._heard) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._heard[:LENGTH_BYTES], "big")
            if len(self._heard) < end:
                return False
            number, body = self._heard[LENGTH_BYTES], bytes(self._heard[LENGTH_BYTES + 1 : end])
            del self._heard[:end]
            # One that came too late for the question before is newer than what is known all the same.
            self.known = [as_reading(*row) for row in orjson.loads(body)]
            if number == self._number:
                return True
        return False

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError:  # nothing yet, or it is gone: the supervisor will notice
            return None


class GroupMetrics:
    """The sums. Used by the supervisor's own loop and by the threads that answer scrapes."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._gone: list[Reading] = []
        self._lock = threading.Lock()

    def join(self) -> Member:
        """A process is about to be started."""
        member = Member()
        with self._lock:
            self._members.append(member)
        return member

    def leave(self, member: Member) -> None:
        """A process has ended. What it had counted stays; what it held at the moment does not."""
        with self._lock:
            self._members.remove(member)
            member.hear()
            member.close()
            counted = [each for each in member.known if FAMILIES[each.name].kind is not Kind.GAUGE]
            self._gone = merged([self._gone, counted])

    def read(self) -> list[Reading]:
        """Of all processes, those included that have ended. One that does not answer within a second is shown as it was
        before."""
        with self._lock:
            waiting = list(self._members)
            for member in waiting:
                member.ask()
            deadline = time.monotonic() + ANSWER_S
            while (waiting := [member for member in waiting if not member.hear()]) and time.monotonic() < deadline:
                time.sleep(0.002)
            return merged([self._gone, *(member.known for member in self._members)])


def as_reading(name: str, labels: list[str], value: Any) -> Reading:
    if isinstance(value, list):
        counts, total, exemplars = cast("tuple[list[int], float, list[Any]]", value)
        value = Distribution(counts, total, [each and Exemplar(*each) for each in exemplars])
    return Reading(name, tuple(labels), value)

"""Several worker processes under one: `reflex worker --processes 4`. Restarts what dies, stops them all."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

import structlog

from reflex.core.errors import CONFIGURATION_EXIT_CODE
from reflex.core.lifeline import die_with_parent
from reflex.core.restarts import Restarts
from reflex.worker.group_metrics import GroupMetrics, Member

__all__ = ["supervise"]

LOOK_S: Final = 0.1


@dataclass(slots=True, eq=False)
class Child:
    """A worker process, and how often it was told to stop."""

    process: subprocess.Popen[bytes]
    member: Member | None = None
    started: float = field(default_factory=time.monotonic)
    told: int = 0


def supervise(arguments: list[str], processes: int, metrics: GroupMetrics | None = None) -> int:
    """Run `reflex worker <arguments>` several times over, until SIGTERM or SIGINT.

    Each child has its own incarnation, connections and heartbeat; nothing is shared, so nothing is lost with one.

    Args:
        metrics: Gets the numbers of all of them.

    Returns:
        The exit code: 0 after a drain, 2 if the children refuse their configuration.
    """
    log = structlog.get_logger()
    command = [sys.executable, "-m", "reflex.cli.main", "worker", *arguments]
    asked = 0

    def on_signal(number: int, _: FrameType | None) -> None:
        # Only counted: a child that is being started at this very moment is not among the children yet.
        nonlocal asked
        asked += 1

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    children: list[Child] = []
    due = [0.0] * processes  # when to start each process that does not run
    restarts = Restarts()
    code = 0
    while children or (due and not asked):
        now = time.monotonic()
        while not asked and due and min(due) <= now:
            due.remove(min(due))
            children.append(start(command, metrics))
        for child in list(children):
            ended = child.process.poll()
            if ended is None:
                if child.told < asked:
                    # Ctrl-C in a terminal would reach the children as well; they would take ours for the second one.
                    child.process.send_signal(signal.SIGTERM)
                    child.told += 1  # one at a time: two that wait to be noticed count as one
                continue
            children.remove(child)
            if metrics is not None and child.member is not None:
                metrics.leave(child.member)
            if asked:
                code = code or max(ended, 0)
            elif ended == CONFIGURATION_EXIT_CODE:
                # Its one sentence is in the log already, and the next process would say the same.
                code = CONFIGURATION_EXIT_CODE
                asked = 1
            else:
                wait_s = restarts.wait_s(now - child.started)
                log.error(
                    "a worker process ended; starting another",
                    exit_code=ended, pid=child.process.pid, restart_in_s=wait_s,
                )  # fmt: skip
                due.append(now + wait_s)
        time.sleep(LOOK_S)
    return code


def start(command: list[str], metrics: GroupMetrics | None = None) -> Child:
    member = metrics.join() if metrics is not None else None
    # A session of its own: Ctrl-C must reach a child once, through us. If we are killed it drains by itself.
    process = subprocess.Popen(  # noqa: S603
        command, start_new_session=True, preexec_fn=die_with_parent(signal.SIGTERM),
        env=None if member is None else {**os.environ, **member.environment},
        pass_fds=() if member is None else (member.theirs.fileno(),),
    )  # fmt: skip
    if member is not None:
        member.started()
    return Child(process, member)

"""Several worker processes under one: `reflex worker --processes 4`. Restarts what dies, stops them all."""

import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Final

import structlog

__all__ = ["supervise"]

RESTART_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
# A process that lived this long was well; its next restart is quick again.
WELL_S: Final = 30.0
CONFIGURATION_EXIT_CODE: Final = 2


def supervise(arguments: list[str], processes: int) -> int:
    """Run `reflex worker <arguments>` several times over, until SIGTERM or SIGINT.

    Each child has its own incarnation, connections and heartbeat; nothing is shared, so nothing is lost with one.

    Returns:
        The exit code: 0 after a drain, 2 if the children refuse their configuration.
    """
    log = structlog.get_logger()
    command = [sys.executable, "-m", "reflex.cli.main", "worker", *arguments]
    children: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
    failures = 0
    stopping = False

    def pass_on(number: int, _: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for child, _started in children.values():
            if child.poll() is None:
                # Ctrl-C in a terminal reaches the children as well; they would take ours for the second one.
                child.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    for _ in range(processes):
        start(command, children)
    code = 0
    while children:
        time.sleep(0.1)
        for pid, (child, started) in list(children.items()):
            ended = child.poll()
            if ended is None:
                continue
            del children[pid]
            if stopping:
                code = code or (ended if ended > 0 else 0)
                continue
            if ended == CONFIGURATION_EXIT_CODE:
                # Its one sentence is in the log already, and the next process would say the same.
                code = CONFIGURATION_EXIT_CODE
                pass_on(signal.SIGTERM, None)
                continue
            failures = 0 if time.monotonic() - started > WELL_S else failures
            wait_s = RESTART_S[min(failures, len(RESTART_S) - 1)]
            failures += 1
            log.error("a worker process ended; starting another", exit_code=ended, pid=pid, restart_in_s=wait_s)
            time.sleep(wait_s)
            if not stopping:
                start(command, children)
    return code


def start(command: list[str], children: dict[int, tuple[subprocess.Popen[bytes], float]]) -> None:
    # A session of its own: Ctrl-C must reach a child once, through us.
    child = subprocess.Popen(command, start_new_session=True)  # noqa: S603
    children[child.pid] = (child, time.monotonic())

"""What ties a child process to the one that started it: the kernel's parent-death signal, on Linux."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["die_with_parent"]

PR_SET_PDEATHSIG = 1


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` with which the kernel signals the child once its parent is gone, however it went.

    "Parent" means the *thread* that starts the child: start it from the main thread, or it dies with a thread
    of a pool. Does nothing where there is no such signal (macOS): there a child outlives a SIGKILL.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl  # looked up here: nothing may be loaded between fork and exec
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:  # it died before the line above: no signal would ever come
            os._exit(1)

    return ask_kernel

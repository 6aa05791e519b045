"""When a process that ended is started again: soon at first, then ever later, until one has lived for a while."""

from typing import Final

__all__ = ["Restarts"]

RESTART_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
# A process that lived this long was well; its next restart is quick again.
WELL_S: Final = 30.0


class Restarts:
    """The failures so far, of one process or of several that run the same."""

    def __init__(self) -> None:
        self._failures = 0

    def wait_s(self, lived_s: float) -> float:
        """How long to wait before the next start, after a process that lived for so many seconds."""
        if lived_s > WELL_S:
            self.forget()
        wait_s = RESTART_S[min(self._failures, len(RESTART_S) - 1)]
        self._failures += 1
        return wait_s

    def forget(self) -> None:
        """What ended was told to."""
        self._failures = 0

"""What an agent raises to say what should happen. Any other exception follows the trigger's `RetryPolicy`."""

from datetime import timedelta

from reflex.agent.lengths import length_of
from reflex.core.waiting import LONGEST_WAIT

__all__ = ["Reject", "Retry"]


class Retry(Exception):
    """Try this delivery again later. It uses up an attempt; after the last one the delivery is dead.

    Args:
        after: How long to wait, as a `timedelta` or in seconds. None leaves the wait to the retry policy.
        reason: Kept as the run's error.
    """

    def __init__(self, after: timedelta | float | None = None, reason: str = "") -> None:
        wait = None if after is None else length_of(f"Retry(after={after!r})", after, most=LONGEST_WAIT)
        if wait is not None and wait < timedelta(0):
            raise ValueError(f"Retry(after={after!r}): a wait cannot be negative")
        super().__init__(reason)
        self.after = wait
        self.reason = reason


class Reject(Exception):
    """Make this delivery a dead letter at once: trying again would not help."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

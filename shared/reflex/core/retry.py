"""When to try again: exponential backoff with full jitter. Pure; the randomness is a parameter."""

import random
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a delivery is tried, and how long it waits in between.

    Before attempt n+1 it waits a random time between 0 and `base * 2 ** (n - 1)`, at most `cap`. Full jitter spreads
    deliveries that failed together (a provider that was down) instead of bringing them back together.
    """

    max_attempts: int = 5
    base: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 1000:
            raise ValueError(f"max_attempts is {self.max_attempts}; it must be between 1 and 1000")
        if self.base < timedelta(0) or self.cap < timedelta(0):
            raise ValueError("base and cap must not be negative")

    def wait_after(self, attempt: int, *, fraction: float | None = None) -> timedelta | None:
        """How long to wait after `attempt` (1 is the first) failed, or None if that was the last one.

        Args:
            fraction: Where in the jitter's range, 0 to 1; None draws it.
        """
        if attempt >= self.max_attempts:
            return None
        # The exponent is capped before it is used: 2 ** 900 seconds is no timedelta.
        longest = min(self.cap, self.base * 2 ** min(attempt - 1, 30))
        return longest * (random.random() if fraction is None else fraction)  # noqa: S311 (jitter, not a secret)

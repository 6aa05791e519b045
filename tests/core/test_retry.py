"""When a delivery is tried again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex.core.retry import RetryPolicy
from reflex.core.settlement import after_failure

SECOND = timedelta(seconds=1)


def test_the_defaults_double_from_one_second_up_to_a_minute() -> None:
    policy = RetryPolicy(max_attempts=9)
    waits = [policy.wait_after(attempt, fraction=1) for attempt in range(1, 10)]
    assert waits == [SECOND * s for s in (1, 2, 4, 8, 16, 32, 60, 60)] + [None]


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_wait_is_between_nothing_and_the_cap(attempts: int, attempt: int) -> None:
    """Fails if the exponent is not bounded (OverflowError) or jitter goes over the cap."""
    wait = RetryPolicy(max_attempts=attempts).wait_after(attempt)
    assert (wait is None) == (attempt >= attempts)
    assert wait is None or timedelta(0) <= wait <= timedelta(seconds=60)


def test_jitter_is_full() -> None:
    """Fails with 'equal' jitter: deliveries that failed together must not come back together."""
    policy = RetryPolicy()
    assert policy.wait_after(3, fraction=0) == timedelta(0)
    assert len({policy.wait_after(3) for _ in range(20)}) > 15


def test_what_the_failure_asks_for_replaces_the_wait_but_not_the_limit() -> None:
    policy = RetryPolicy(max_attempts=2)
    assert after_failure(policy, 1, retry_after=timedelta(minutes=5)) == timedelta(minutes=5)
    assert after_failure(policy, 2, retry_after=timedelta(minutes=5)) is None


@pytest.mark.parametrize("bad", [{"max_attempts": 0}, {"base": timedelta(-1)}, {"cap": timedelta(-1)}])
def test_nonsense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        RetryPolicy(**bad)  # pyright: ignore[reportArgumentType]

"""The pace of a replay: however it is written, it never allows for more than that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex.core.pacing import PORTION, Pace
from reflex.core.pages import QueryRejected

UNITS = {"s": 1, "m": 60, "h": 3600}


@given(number=st.integers(1, 999_999), unit=st.sampled_from("smh"))
def test_no_more_portions_fit_into_the_time_than_the_rate_allows_for(number: int, unit: str) -> None:
    """Nor much less than that. Fails if a rate that is no multiple of the portions is rounded up, or down to one."""
    pace = Pace.parse(f"{number}/{unit}", field="--rate")
    assert 1 <= pace.most <= PORTION
    # They are further apart than a pause: one at the beginning of the time, and none at its end.
    allowed = round(UNITS[unit] / pace.pause_s) * pace.most
    assert number // 2 < allowed <= number


@pytest.mark.parametrize(
    ("text", "pace"),
    [
        ("50/s", Pace(50, 1)),
        ("50", Pace(50, 1)),
        ("700/s", Pace(350, 0.5)),
        ("30/m", Pace(1, 2)),
        ("1/h", Pace(1, 3600)),
    ],
)
def test_portions_are_as_small_as_a_second_lets_them_be(text: str, pace: Pace) -> None:
    assert Pace.parse(text, field="--rate") == pace


@pytest.mark.parametrize("text", ["", "0", "0/s", "-1", "1.5/s", "50/d", "50 /s", "50/s/s", "9999999", "٥/s"])
def test_what_is_no_rate_is_said_with_one_that_is(text: str) -> None:
    with pytest.raises(QueryRejected, match=r"--rate: .* is no rate; write 50/s, 30/m or 100/h"):
        Pace.parse(text, field="--rate")

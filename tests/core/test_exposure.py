"""A gateway that asks for no keys listens on its own machine only, unless it is told otherwise in so many words."""

import pytest

from reflex.core.errors import ConfigurationError
from reflex.core.exposure import check_exposure, is_loopback
from reflex.core.settings import load_settings


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True), ("::ffff:127.0.0.1", True),
        ("127.1", True), ("2130706433", True),
        ("0.0.0.0", False), ("::", False), ("0", False), ("10.1.2.3", False), ("192.0.2.1", False),
        ("fe80::1%1", False), ("::ffff:10.1.2.3", False), ("128.0.0.1", False),
    ],
)  # fmt: skip
def test_only_loopback_addresses_are_this_machine_alone(host: str, only_here: bool) -> None:
    """However they are written. Fails if names and short forms are compared as text."""
    assert is_loopback(host) is only_here


def test_a_name_that_is_none_is_left_to_whoever_listens() -> None:
    """It says why it cannot. An empty one is none."""
    assert is_loopback("nowhere.invalid")
    assert is_loopback("")
    assert is_loopback("a" * 70 + ".example")


def test_open_is_for_this_machine_and_the_sentence_says_what_to_set() -> None:
    for access, host in [("open", "::1"), ("keys", "0.0.0.0"), ("open-to-all", "0.0.0.0")]:
        check_exposure(load_settings(access=access, host=host))
    check_exposure(load_settings())
    with pytest.raises(ConfigurationError) as raised:
        check_exposure(load_settings(host="0.0.0.0"))
    assert "REFLEX_HOST is '0.0.0.0', which other machines reach" in str(raised.value)
    for way_out in ("REFLEX_ACCESS=keys", "REFLEX_ACCESS=open-to-all", "REFLEX_HOST=127.0.0.1"):
        assert way_out in str(raised.value)

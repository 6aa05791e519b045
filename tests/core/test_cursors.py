"""Cursors: what a client keeps of its position, and gets refused if it was made up."""

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex.core.cursors import FORM, Cursor, CursorExpired, CursorRejected
from reflex.core.log_reading import LogBounds

CURSORS = st.builds(Cursor, st.integers(0, 2**63 - 1), st.integers(0, 2**16 - 1))
A = str(Cursor(7, 3))


@given(CURSORS)
def test_what_is_written_is_read_again(cursor: Cursor) -> None:
    """Fails if the padding is not put back, or a position is packed into 32 bits."""
    assert Cursor.parse(str(cursor)) == cursor
    assert str(cursor).isascii()
    assert len(str(cursor)) < 20


@given(CURSORS, CURSORS)
def test_cursors_compare_by_position_and_then_by_place(one: Cursor, two: Cursor) -> None:
    """Fails with: the fields of Cursor in the other order."""
    assert (one < two) == (one.position < two.position or (one.position == two.position and one.place < two.place))


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "7", "7.3", A[:-1], f"{A}A", f"{A}=", f"{A}\n", f" {A}", f"{A[:3]}!{A[3:]}", A[:-1] + "B", "é" * 15,
     "\x00" * 15, "\ud800" * 15, "A" * 100_000,
     urlsafe_b64encode(FORM.pack(2, 7, 3)).decode().rstrip("="),
     urlsafe_b64encode(FORM.pack(1, 2**63, 3)).decode().rstrip("="),
     str(Cursor(2**62 + 2**50 - 1, 2**16 - 1)).replace("_", "/")],
)  # fmt: skip
def test_what_is_no_cursor_is_refused_with_the_name_of_its_field(text: str) -> None:
    """Fails if the text is not compared with what the cursor would be written as: base64 skips what it does not know,
    and bits at the end; if the version is not looked at; if a position may be greater than PostgreSQL's bigint."""
    with pytest.raises(CursorRejected) as caught:
        Cursor.parse(text, field="last-event-id")
    assert (caught.value.field, caught.value.code) == ("last-event-id", "cursor_rejected")
    assert str(caught.value).startswith("last-event-id: ")
    assert len(str(caught.value)) < 800


def test_a_cursor_is_good_from_the_beginning_of_the_log_to_its_end() -> None:
    """Fails with `<=` or `>=`: a reader of all that there is would be refused, and so would one from the beginning."""
    bounds = LogBounds(start=Cursor(5, 2), end=Cursor(9, 1))
    for good in (Cursor(5, 2), Cursor(5, 3), Cursor(7, 60), Cursor(9, 1)):
        assert bounds.check(good) == good
    for dropped in (Cursor(0, 0), Cursor(4, 99), Cursor(5, 1)):
        with pytest.raises(CursorExpired, match=f"^after: .* read on from {Cursor(5, 2)},") as caught:
            bounds.check(dropped)
        assert caught.value.code == "cursor_expired"
    for ahead in (Cursor(9, 2), Cursor(10, 0)):
        with pytest.raises(CursorRejected, match=r"^since: .*ahead of the log") as refused:
            bounds.check(ahead, field="since")
        assert refused.value.code == "cursor_rejected"

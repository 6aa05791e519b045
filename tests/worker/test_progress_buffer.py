"""The buffer of progress: texts grow together, what is too much goes, and the numbers tell."""

from datetime import UTC, datetime
from typing import Any

from reflex.agent.progress import Entry, RunProgress
from reflex.core.ids import new_id
from reflex.core.progress import ProgressKind
from reflex.core.settlement import Claimed
from reflex.worker.progress_buffer import ProgressBuffer


class Audience:
    """Whoever watches this buffer."""

    def __init__(self, max_size: int = 10_000) -> None:
        self.buffer = ProgressBuffer(max_size)
        self.watched = True

    def show(self, entry: Entry) -> None:
        self.buffer.add(entry)

    def run(self) -> RunProgress:
        rest: list[Any] = [{}, None, None, 0, None]
        return RunProgress(self, Claimed(1, new_id(), 1, 1, "t", "s", None, datetime.now(UTC), *rest), "pack")

    def taken(self) -> list[tuple[int, str, str, int]]:
        return [(entry.seq, entry.kind.value, entry.text, entry.dropped) for entry in self.buffer.take()]


def test_texts_of_one_request_grow_together_until_they_are_taken() -> None:
    """Of two runs, and of two requests that run at once. Fails with: one last entry for all runs; a growing entry that
    was taken already; thinking mixed into the text."""
    audience = Audience()
    one, other = audience.run(), audience.run()
    first, second = one.model_request(), one.model_request()
    for word in ("a", "b"):
        first.text(word)
        other.model_request().thinking("t")
        second.text(word.upper())
    assert audience.taken() == [
        (1, "run_started", "", 0), (2, "text", "ab", 0), (1, "run_started", "", 0), (2, "thinking", "t", 0),
        (3, "text", "AB", 0), (3, "thinking", "t", 0),
    ]  # fmt: skip
    first.text("c")
    first.thinking("d")
    first.text("e")
    assert audience.taken() == [(4, "text", "c", 0), (5, "thinking", "d", 0), (6, "text", "e", 0)]


def test_a_long_text_comes_in_pieces_that_can_be_sent_whole() -> None:
    """A replayed one, and one that grows. Fails with: one entry of any length."""
    audience = Audience(1_000_000)
    request = audience.run().model_request()
    request.text("x" * 2_500)
    for _ in range(1_500):
        request.text("y")
    texts = [text for _, kind, text, _ in audience.taken() if kind == "text"]
    assert "".join(texts) == "x" * 2_500 + "y" * 1_500
    assert max(map(len, texts)) <= 1_000


def test_too_much_text_goes_first_and_is_counted_by_its_run() -> None:
    """Fails with: the newest dropped; calls dropped before texts; the count in another run, or in an entry before the
    gap."""
    audience = Audience(9_000)
    quiet, loud = audience.run(), audience.run()
    quiet.model_request().text("quiet")
    with quiet.tool_call("stock", "c-1", {}):
        pass
    for number in range(12):
        loud.model_request().text(f"{number}" + "x" * 700)
    loud.ended("succeeded")
    quiet.ended("succeeded")
    assert audience.buffer.size <= 9_000
    entries = audience.buffer.take()
    for run, expected in ((quiet, ["run_started", "tool_call", "run_ended"]), (loud, None)):
        mine = [entry for entry in entries if entry.run is run]
        assert expected is None or [entry.kind.value for entry in mine] == expected
        assert mine[-1].text == "" or mine[-1].text.startswith("11")
        seq = 0
        for entry in mine:
            assert entry.seq == seq + entry.dropped + 1, "a gap in the numbers is what was dropped there"
            seq = entry.seq
        assert seq == run.seq
    assert sum(entry.dropped for entry in entries if entry.run is quiet) == 1


def test_when_there_is_no_text_the_oldest_goes() -> None:
    """Fails with: a buffer that only drops texts (it grows without end)."""
    audience = Audience(3_000)
    run = audience.run()
    for number in range(100):
        run.tool_result("stock", f"c-{number}", "x")
    assert audience.buffer.size <= 3_000
    entries = audience.buffer.take()
    assert [entries[-1].seq, sum(1 + entry.dropped for entry in entries)] == [101, 101]


def test_what_could_not_be_sent_is_counted_in_what_comes_next() -> None:
    """In what waits already, and in what is still to come. Fails with: the count lost with the entries."""
    audience = Audience()
    one, other = audience.run(), audience.run()
    one.model_request().text("a")
    other.started()
    lost = audience.buffer.take()
    one.ended("retry")
    audience.buffer.lost(lost)
    other.ended("retry")
    assert audience.taken() == [(3, "run_ended", "", 2), (2, "run_ended", "", 1)]


def test_nothing_is_shown_to_nobody_and_the_end_only_after_a_beginning() -> None:
    """Fails with: the look at `watched` left out; run_ended of a run of which nothing was shown."""
    audience = Audience()
    audience.watched = False
    run = audience.run()
    run.started()
    request = run.model_request()
    request.text("before")
    assert len(audience.buffer) == 0
    audience.watched = True
    run.ended("succeeded")
    assert len(audience.buffer) == 0
    request.text("after")
    run.ended("succeeded")
    assert [kind for _, kind, _, _ in audience.taken()] == ["run_started", "text", "run_ended"]


def test_values_are_shown_as_json_of_bounded_length_whatever_they_are() -> None:
    """Fails with: an object that is no JSON ending the run; a long result sent in full."""
    audience = Audience(100_000)
    run = audience.run()
    for value in ("x" * 3_000, {"a": object(), "n": float("nan")}, b"\xff"):
        run.tool_result("stock", "c", value)
    results = [entry.fields for entry in audience.buffer.take() if entry.kind is ProgressKind.TOOL_RESULT]
    assert [(fields["result"][:20], fields["truncated"]) for fields in results] == [
        ("x" * 20, True), ('{"a":"object","n":nu', False), ("bytes", False),
    ]  # fmt: skip
    assert len(results[0]["result"]) == 2_000

"""A filter in SQL lets through what it lets through in memory: live and catching up are one stream."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex.core.database import connect
from reflex.core.events import candidate_patterns
from reflex.core.log import append
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import read_log
from tests.core.log_fixtures import BEGINNING, place_all
from tests.queue_fixtures import new_event

# Every neighbour of `reflex.` and of `order.` in byte order, and what a careless LIKE would take for one.
TYPES = (
    "reflex", "reflex-", "reflex-x", "reflex-.x", "reflex.reply", "reflex.dead_letter", "reflex.-", "reflex._",
    "reflex.z.z", "reflex0", "reflexx", "reflexx.reply", "refleX.reply", "Reflex.reply", "order", "order.a",
    "order.a.b", "order.aa", "order-a", "order_a", "orderXa", "orders.a", "a.order.a", "-", "0", "A", "Z", "_", "a",
    "zzz.zzz",
)  # fmt: skip
TEXTS = ("", "a", "b", "A", "ä", "a\u0301", "\U0010ffff", "%", "_", "{a,b}", "NULL", "wait")
PATTERNS = sorted({p for type in TYPES for p in candidate_patterns(type)} | {"*", "nobody.*", "order.created"})
OPTIONAL = st.none() | st.sampled_from(TEXTS)
FILTERS = st.builds(
    LogFilter,
    types=st.lists(st.sampled_from(PATTERNS), max_size=3).map(tuple),
    sources=st.lists(st.sampled_from(TEXTS), max_size=2).map(tuple),
    key=OPTIONAL,
    correlation_id=OPTIONAL,
    reply_to=OPTIONAL,
)
FIELDS = ("source", "key", "correlation_id", "reply_to")
EVENTS = [
    new_event(type)._replace(
        **{field: None if field != "source" and n % 5 == 0 else TEXTS[(n * step + t) % len(TEXTS)]
           for step, field in enumerate(FIELDS, 1)}
    )
    for t, type in enumerate(TYPES) for n in range(12)
]  # fmt: skip


def test_a_filter_in_sql_is_the_filter_in_memory(database_url: str) -> None:
    """Fails if `*` is one range in SQL, if the range of a prefix has no upper end or is compared in another order than
    that of bytes, and if an empty text counts as no condition."""
    with asyncio.Runner() as runner:
        conn = runner.run(connect(database_url, name="test"))
        runner.run(append(conn, EVENTS))
        runner.run(place_all(conn))

        @settings(deadline=None, max_examples=150, database=None)
        @given(filter=FILTERS)
        def check(filter: LogFilter) -> None:
            page = runner.run(read_log(conn, BEGINNING, filter=filter, limit=1000))
            expected = [event.event_id for event in EVENTS if filter.matches(event)]
            assert [event.event_id for event in page.events] == expected
            assert all(filter.matches(event) for event in page.events)

        # Each pattern alone, and each field alone; then whatever Hypothesis thinks of.
        for filter in (LogFilter(types=(pattern,)) for pattern in PATTERNS):
            check.hypothesis.inner_test(filter)  # type: ignore[attr-defined]
        check()
        runner.run(conn.close())


@pytest.mark.parametrize(
    ("types", "event_type", "matches"),
    [
        ((), "reflex.reply", True), (("*",), "reflex.reply", False), (("reflex.*",), "reflex.reply", True),
        (("reflex.reply",), "reflex.reply", True), (("*",), "reflex", True), (("*",), "reflex-x", True),
        (("order.*",), "order", False), (("order.*",), "order.a.b", True), (("order",), "order.a", False),
        (("a", "b"), "b", True),
    ],
)  # fmt: skip
def test_a_star_leaves_out_what_reflex_writes_and_no_types_at_all_leave_out_nothing(
    types: Sequence[str], event_type: str, *, matches: bool
) -> None:
    """Fails if "no types" means `*`: who waits for a reply would not get it."""
    assert LogFilter(types=tuple(types)).matches(new_event(event_type)) is matches

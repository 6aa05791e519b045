"""What is recorded: plain numbers in dictionaries, fed by one call and read when somebody asks.

Whoever records pays for an addition, and knows nothing of who reads: Prometheus, OTLP, or nobody. One thread records;
any may read: copying a dictionary is one step for Python, so a reader never finds it half changed.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from reflex.core.metrics import FAMILIES, Kind

__all__ = ["MAX_SERIES", "OTHER", "Counter", "Distribution", "Exemplar", "Histogram", "Labels", "Observed", "Reading",
           "gauges", "merged"]  # fmt: skip

Labels: TypeAlias = tuple[str, ...]

# A family has no more series than this: what comes later is counted under `other`, so that the sums stay right.
MAX_SERIES: Final = 1000
OTHER: Final = "other"


class Exemplar(NamedTuple):
    """One of the values that were counted, and the trace that tells how it came about. `at` is Unix time."""

    trace_context: str
    value: float
    at: float

    @property
    def trace_id(self) -> str:
        return self.trace_context[3:35]

    @property
    def span_id(self) -> str:
        return self.trace_context[36:52]


class Distribution(NamedTuple):
    """How many values were up to each bound of the family and above the one before, with one place more for those above
    all of them; their sum; and the last exemplar of each place."""

    counts: Sequence[int]
    sum: float
    exemplars: Sequence[Exemplar | None]


class Reading(NamedTuple):
    """The number of one series at the moment; `labels` in the order of the family."""

    name: str
    labels: Labels
    value: "float | Distribution"


class Counter:
    """A number for each set of labels."""

    __slots__ = ("_capped", "name", "values")

    def __init__(self, name: str, *begun: Labels) -> None:
        """`begun`: series that are there with 0 from the beginning, so that their first step can be seen as one."""
        assert FAMILIES[name].kind is Kind.COUNTER
        self.name = name
        self.values: dict[Labels, float] = dict.fromkeys(begun, 0)
        self._capped = (OTHER,) * len(FAMILIES[name].labels)

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        values = self.values
        if labels in values:
            values[labels] += amount
            return
        if len(values) >= MAX_SERIES:
            labels = self._capped
        values[labels] = values.get(labels, 0) + amount

    def read(self) -> list[Reading]:
        return [Reading(self.name, labels, value) for labels, value in self.values.copy().items()]


class Observed:
    """The values of one series of a histogram."""

    __slots__ = ("_bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: list[Exemplar | None] = [None] * (len(bounds) + 1)

    def count(self, value: float, trace_context: str | None = None) -> None:
        """Count a value. A trace context becomes an exemplar if its trace is recorded anywhere (it says so itself)."""
        place = bisect_left(self._bounds, value)
        self.counts[place] += 1
        self.sum += value
        if trace_context is not None and int(trace_context[-1], 16) & 1:
            self.exemplars[place] = Exemplar(trace_context, value, time.time())


class Histogram:
    """How many values were how large, for each set of labels."""

    __slots__ = ("_bounds", "_capped", "name", "values")

    def __init__(self, name: str, *begun: Labels) -> None:
        family = FAMILIES[name]
        assert family.kind is Kind.HISTOGRAM
        self.name = name
        self._bounds = family.buckets
        self.values: dict[Labels, Observed] = {labels: Observed(self._bounds) for labels in begun}
        self._capped = (OTHER,) * len(family.labels)

    def observe(self, value: float, labels: Labels = (), trace_context: str | None = None) -> None:
        self.series(labels).count(value, trace_context)

    def series(self, labels: Labels) -> Observed:
        """To be kept by who counts often: it need not be looked up then."""
        observed = self.values.get(labels)
        if observed is None:
            if len(self.values) >= MAX_SERIES:
                labels = self._capped
            observed = self.values.setdefault(labels, Observed(self._bounds))
        return observed

    def read(self) -> list[Reading]:
        return [
            Reading(self.name, labels, Distribution(tuple(each.counts), each.sum, tuple(each.exemplars)))
            for labels, each in self.values.copy().items()
        ]


def gauges(name: str, values: Mapping[Labels, float]) -> list[Reading]:
    """Readings of what is known anyway, and is looked at only when somebody asks."""
    assert FAMILIES[name].kind is Kind.GAUGE
    return [Reading(name, labels, value) for labels, value in values.items()]


def merged(processes: Iterable[Iterable[Reading]]) -> list[Reading]:
    """The sums over several processes that do the same work."""
    found: dict[tuple[str, Labels], Any] = {}
    for reading in (reading for readings in processes for reading in readings):
        series = reading.name, reading.labels
        found[series] = plus(found[series], reading.value) if series in found else reading.value
    return [Reading(name, labels, value) for (name, labels), value in found.items()]


def plus(one: Any, other: Any) -> Any:
    if not isinstance(one, Distribution):
        return one + other
    return Distribution(
        tuple(a + b for a, b in zip(one.counts, other.counts, strict=True)),
        one.sum + other.sum,
        tuple(newest(pair) for pair in zip(one.exemplars, other.exemplars, strict=True)),
    )


def newest(exemplars: Iterable[Exemplar | None]) -> Exemplar | None:
    return max((each for each in exemplars if each is not None), key=lambda each: each.at, default=None)

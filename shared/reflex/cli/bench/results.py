"""What the benchmarks found: figures over several runs, set beside what they are compared with."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

__all__ = ["Figure", "Row", "Verdict", "above", "below", "beside", "failed", "skipped", "under"]


class Verdict(StrEnum):
    """What a figure says about what is asked of it."""

    OK = "ok"
    SHORT = "short"
    INFO = "-"  # nothing is asked of it
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, measured once a run."""

    runs: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def __str__(self) -> str:
        spread = f" ({number(min(self.runs))}–{number(max(self.runs))})" if len(self.runs) > 1 else ""
        return f"{number(self.median)} {self.unit}{spread}"

    def ratio_to(self, other: Self) -> float:
        """The median of the ratios of runs that were made side by side; else the ratio of the medians."""
        if len(self.runs) == len(other.runs):
            return statistics.median(ours / theirs for ours, theirs in zip(self.runs, other.runs, strict=True))
        return self.median / other.median


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    bench: str
    what: str
    ours: Figure | None = None
    against: str = ""
    theirs: Figure | None = None
    ratio: float | None = None
    asked: str = ""
    verdict: Verdict = Verdict.INFO
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict[str, Any])

    def cells(self) -> tuple[str, ...]:
        against = f"{self.against}: {self.theirs}" if self.theirs else self.against
        return (
            self.what,
            str(self.ours) if self.ours else "-",
            against or "-",
            f"{self.ratio:.2f}" if self.ratio is not None else "-",
            self.asked or "-",
            str(self.verdict),
        )

    def document(self) -> dict[str, Any]:
        """For JSON."""
        figures = {
            name: {"unit": figure.unit, "median": figure.median, "runs": list(figure.runs)} if figure else None
            for name, figure in (("ours", self.ours), ("theirs", self.theirs))
        }
        return {**asdict(self), **figures}


def beside(
    bench: str, what: str, ours: Figure, against: str, theirs: Figure, *, at_least: float | None = None, **rest: Any
) -> Row:
    """A ratio to something measured in the same run; `at_least` None asks nothing."""
    ratio = ours.ratio_to(theirs)
    asked = "" if at_least is None else f"ratio ≥ {at_least:g}"
    verdict = judged(at_least, lambda asked: ratio >= asked)
    return Row(bench, what, ours, against, theirs, ratio, asked, verdict, **rest)


def below(bench: str, what: str, ours: Figure, against: str, theirs: Figure, *, limit: float) -> Row:
    """The same where less is better."""
    ratio = ours.ratio_to(theirs)
    verdict = judged(limit, lambda limit: ratio < limit)
    return Row(bench, what, ours, against, theirs, ratio, f"ratio < {limit:g}", verdict)


def above(bench: str, what: str, ours: Figure, *, at_least: float, **rest: Any) -> Row:
    """A figure that has to reach something by itself."""
    verdict = judged(at_least, lambda asked: ours.median >= asked)
    return Row(bench, what, ours, asked=f"≥ {number(at_least)} {ours.unit}", verdict=verdict, **rest)


def under(bench: str, what: str, ours: Figure, *, limit: float | None = None, **rest: Any) -> Row:
    """A figure that has to stay below something; `limit` None asks nothing."""
    asked = "" if limit is None else f"< {number(limit)} {ours.unit}"
    return Row(bench, what, ours, asked=asked, verdict=judged(limit, lambda asked: ours.median < asked), **rest)


def skipped(bench: str, what: str, why: str) -> Row:
    return Row(bench, what, verdict=Verdict.SKIPPED, note=why)


def failed(bench: str, what: str, why: str) -> Row:
    return Row(bench, what, verdict=Verdict.FAILED, note=why)


def judged(asked: float | None, holds: Callable[[float], bool]) -> Verdict:
    if asked is None:
        return Verdict.INFO
    return Verdict.OK if holds(asked) else Verdict.SHORT


def number(value: float) -> str:
    """As many digits as a measurement deserves."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def short(rows: Sequence[Row]) -> list[Row]:
    """Those that do not show what they must."""
    return [row for row in rows if row.verdict in (Verdict.SHORT, Verdict.FAILED)]

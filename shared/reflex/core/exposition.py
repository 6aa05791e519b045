"""Readings as text for Prometheus: the classic format, or OpenMetrics, which has exemplars, for who asks for it.

prometheus-client is imported by the first scrape: a process that nobody scrapes is smaller without it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, cast

from reflex.core.metrics import FAMILIES, Family, Kind
from reflex.core.series import Distribution, Exemplar, Reading

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Exemplar as Shown

__all__ = ["Exposed", "exposed"]

OPENMETRICS: Final = "application/openmetrics-text"
SECONDS: Final = "seconds"


def exposed(readings: Sequence[Reading], accept: str | None = None) -> tuple[bytes, str]:
    """The text, and its content type.

    Args:
        accept: The header of the request. Without it, or with one that does not name OpenMetrics, the classic text.
    """
    from prometheus_client import exposition
    from prometheus_client.openmetrics import exposition as openmetrics

    # prometheus-client's own reading of the header fails for versions that are no numbers.
    if OPENMETRICS in (accept or "").lower():
        # It has no types.
        write = cast("Callable[[Exposed], bytes]", openmetrics.generate_latest)  # pyright: ignore[reportUnknownMemberType]
        return write(Exposed(readings)), openmetrics.CONTENT_TYPE_LATEST
    return exposition.generate_latest(Exposed(readings)), exposition.CONTENT_TYPE_PLAIN_0_0_4


class Exposed:
    """A collector, as prometheus-client calls what has something to show. Its own registry is not used: whatever else
    runs in the process may have filled that."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = readings

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.metrics_core import Metric

        metrics: dict[str, Metric] = {}
        for reading in self._readings:
            family = FAMILIES[reading.name]
            metric = metrics.get(family.name)
            if metric is None:
                unit = SECONDS if family.name.endswith(f"_{SECONDS}") else ""
                metric = metrics[family.name] = Metric(
                    family.name.removesuffix("_total"), family.help, family.kind.value, unit
                )
            add_samples(metric, family, reading)
        # In the order of the table, whatever was recorded first.
        yield from (metrics[name] for name in FAMILIES if name in metrics)


def add_samples(metric: "Metric", family: Family, reading: Reading) -> None:
    labels = dict(zip(family.labels, reading.labels, strict=True))
    value = reading.value
    if not isinstance(value, Distribution):
        metric.add_sample(family.name, labels, value)
        return
    assert family.kind is Kind.HISTOGRAM
    bounds = [*(f"{float(bound)}" for bound in family.buckets), "+Inf"]
    for bound, count, exemplar in zip(bounds, accumulate(value.counts), value.exemplars, strict=True):
        metric.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, count, exemplar=shown(exemplar))
    metric.add_sample(f"{family.name}_count", labels, sum(value.counts))
    metric.add_sample(f"{family.name}_sum", labels, value.sum)


def shown(exemplar: Exemplar | None) -> "Shown | None":
    if exemplar is None:
        return None
    from prometheus_client.samples import Exemplar as Shown

    return Shown({"trace_id": exemplar.trace_id}, exemplar.value, round(exemplar.at, 3))

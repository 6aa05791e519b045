"""Readings to an OpenTelemetry collector, if the environment asks for it, the same that Prometheus would scrape.

Only the exporter and its data classes are taken from the SDK: its instruments would count everything a second time.
"""

import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from reflex.core.metrics import FAMILIES, Family, Kind
from reflex.core.series import Distribution, Exemplar, Reading

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.resources import Resource

__all__ = ["Push", "push_wanted"]

NANO: Final = 1_000_000_000
# As OpenTelemetry has it.
INTERVAL: Final = ("OTEL_METRIC_EXPORT_INTERVAL", 60_000)
LAST_PUSH_S: Final = 5.0


def push_wanted() -> bool:
    """Whether the environment names a collector for metrics, and does not say that it gets none."""
    if os.environ.get("OTEL_METRICS_EXPORTER") == "none":
        return False
    return any(os.environ.get(f"OTEL_EXPORTER_OTLP_{which}ENDPOINT") for which in ("", "METRICS_"))


def interval_s() -> float:
    name, default_ms = INTERVAL
    try:
        return max(0.1, float(os.environ.get(name, default_ms)) / 1000)
    except ValueError:
        return default_ms / 1000


class Push(threading.Thread):
    """Sends all readings every OTEL_METRIC_EXPORT_INTERVAL (60000 ms), and once more in the end. A thread of its own:
    neither code that blocks the event loop nor a collector that does not answer is in the way of the other.

    Args:
        service: The service's name, unless OTEL_SERVICE_NAME says another one.
        read: Gives the readings. Called from this thread; what it raises is logged, and it is called again.
    """

    def __init__(self, service: str, read: Callable[[], Sequence[Reading]]) -> None:
        super().__init__(name="metrics", daemon=True)
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource

        named = {"service.name": service, "host.name": socket.gethostname()}
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins.
        said = OTELResourceDetector().detect().attributes
        self._resource = Resource.create({name: value for name, value in named.items() if name not in said})
        self._exporter: Any = OTLPMetricExporter()
        self._read = read
        self._begun = time.time_ns()
        self._stopped = threading.Event()
        self._works = True

    def run(self) -> None:
        while not self._stopped.wait(interval_s()):
            self.push()
        self.push()

    def push(self) -> None:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        log = structlog.get_logger()
        try:
            data = as_otlp(self._read(), resource=self._resource, begun=self._begun, now=time.time_ns())
            worked, why = self._exporter.export(data) is MetricExportResult.SUCCESS, "see the line before"
        except Exception as error:  # noqa: BLE001 - numbers that do not arrive must not end what they are about
            worked, why = False, f"{type(error).__name__}: {error}"
        if worked != self._works:
            self._works = worked
            if worked:
                log.info("metrics arrive at the collector again")
            else:
                log.warning("metrics do not arrive at the collector; they are tried again", reason=why)

    def stop(self) -> None:
        """The last numbers are sent first. Returns after 5 s at most; call it from another thread than the loop's, if
        `read` needs the loop."""
        self._stopped.set()
        if self.is_alive():
            self.join(LAST_PUSH_S)
        self._exporter.shutdown()


def as_otlp(readings: Sequence[Reading], *, resource: "Resource", begun: int, now: int) -> "export.MetricsData":
    """The readings as the exporter takes them. Times are Unix time in nanoseconds."""
    from opentelemetry.sdk.metrics.export import Metric, MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    by_name: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        by_name[reading.name].append(reading)
    metrics = [
        Metric(family.name, family.help, family.unit, data_of(family, by_name[family.name], begun, now))
        for family in FAMILIES.values()
        if family.name in by_name
    ]
    scope = ScopeMetrics(InstrumentationScope("reflex"), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def data_of(family: Family, readings: Sequence[Reading], begun: int, now: int) -> "export.DataT":
    from opentelemetry.sdk.metrics import export

    cumulative = export.AggregationTemporality.CUMULATIVE
    if family.kind is Kind.HISTOGRAM:
        return export.Histogram([histogram_point(family, reading, begun, now) for reading in readings], cumulative)
    points = [
        export.NumberDataPoint(attributes(family, reading), begun, now, cast("float", reading.value))
        for reading in readings
    ]
    if family.kind is Kind.COUNTER:
        return export.Sum(points, cumulative, is_monotonic=True)
    return export.Gauge(points)


def histogram_point(family: Family, reading: Reading, begun: int, now: int) -> "export.HistogramDataPoint":
    from opentelemetry.sdk.metrics import export

    value = reading.value
    assert isinstance(value, Distribution)
    # Protobuf leaves out what is None; the class wants numbers. What is not kept is better missing than wrong.
    unknown: Any = None
    return export.HistogramDataPoint(
        attributes(family, reading), begun, now, sum(value.counts), value.sum, value.counts, family.buckets,
        min=unknown, max=unknown, exemplars=[otlp_exemplar(each) for each in value.exemplars if each is not None],
    )  # fmt: skip


def otlp_exemplar(exemplar: Exemplar) -> Any:
    from opentelemetry.sdk.metrics import Exemplar as OtlpExemplar

    ids = {"span_id": int(exemplar.span_id, 16), "trace_id": int(exemplar.trace_id, 16)}
    return OtlpExemplar({}, exemplar.value, int(exemplar.at * NANO), **ids)


def attributes(family: Family, reading: Reading) -> dict[str, str]:
    return dict(zip(family.labels, reading.labels, strict=True))

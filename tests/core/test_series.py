"""What is recorded, added up over processes, and shown as text that prometheus-client itself can read."""

from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_classic

from reflex.core import series
from reflex.core.exposition import exposed
from reflex.core.metrics import FAMILIES, Kind
from reflex.core.series import OTHER, Counter, Exemplar, Histogram, Reading, gauges, merged

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNRECORDED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def samples(readings: list[Reading], accept: str | None = None) -> dict[tuple[str, tuple[tuple[str, str], ...]], Any]:
    text, content_type = exposed(readings, accept)
    read = read_openmetrics if content_type.startswith("application/openmetrics-text") else read_classic
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample
        for family in read(text.decode())
        for sample in family.samples
    }


def test_the_table_keeps_the_rules_of_names() -> None:
    """Fails for a counter without _total, a unit that the name does not say, or a histogram without buckets."""
    for family in FAMILIES.values():
        assert family.name.startswith("reflex_")
        assert (family.kind is Kind.COUNTER) == family.name.endswith("_total")
        assert (family.unit == "s") == family.name.endswith("_seconds")
        assert (family.unit == "USD") == ("usd" in family.name)
        assert (family.kind is Kind.HISTOGRAM) == bool(family.buckets)
        assert list(family.buckets) == sorted(set(family.buckets))
        assert len(set(family.labels)) == len(family.labels)
        assert "le" not in family.labels
        assert family.help.endswith(".")


def test_a_name_that_is_not_in_the_table_is_refused_at_once() -> None:
    with pytest.raises(KeyError):
        Counter("reflex_inventions_total")
    with pytest.raises(AssertionError):
        Histogram("reflex_events_accepted_total")


def test_both_texts_can_be_read_and_say_the_same() -> None:
    """Fails if buckets are not cumulative, if a value on a bound counts above it, or labels are not escaped."""
    accepted, ingest = Counter("reflex_events_accepted_total"), Histogram("reflex_ingest_duration_seconds")
    accepted.add(('a"b\\c\nd',), 3)
    for value in (0.0005, 0.001, 0.0011, 99.0):
        ingest.observe(value)
    readings = [*accepted.read(), *ingest.read(), *gauges("reflex_slots", {("shop", "used"): 2})]
    classic, openmetrics = samples(readings), samples(readings, OPENMETRICS)
    assert {key: sample.value for key, sample in classic.items()} == {
        key: sample.value for key, sample in openmetrics.items()
    }
    assert classic["reflex_events_accepted_total", (("type", 'a"b\\c\nd'),)].value == 3
    assert classic["reflex_slots", (("app", "shop"), ("state", "used"))].value == 2
    buckets = {le: classic["reflex_ingest_duration_seconds_bucket", (("le", le),)].value for le in ("0.001", "0.0025")}
    assert buckets == {"0.001": 2, "0.0025": 3}
    assert classic["reflex_ingest_duration_seconds_bucket", (("le", "10.0"),)].value == 3
    assert classic["reflex_ingest_duration_seconds_bucket", (("le", "+Inf"),)].value == 4
    assert classic["reflex_ingest_duration_seconds_count", ()].value == 4
    assert classic["reflex_ingest_duration_seconds_sum", ()].value == pytest.approx(99.0026)


def test_every_family_can_be_shown() -> None:
    readings: list[Reading] = []
    for family in FAMILIES.values():
        labels = tuple(f"a {label}" for label in family.labels)
        match family.kind:
            case Kind.COUNTER:
                counter = Counter(family.name)
                counter.add(labels)
                readings += counter.read()
            case Kind.HISTOGRAM:
                histogram = Histogram(family.name, labels)
                readings += histogram.read()
            case Kind.GAUGE:
                readings += gauges(family.name, {labels: 1})
    text, _ = exposed(readings, OPENMETRICS)
    shown = {family.name: family for family in read_openmetrics(text.decode())}
    assert shown.keys() == {name.removesuffix("_total") for name in FAMILIES}
    assert {family.type for family in shown.values()} == {"counter", "gauge", "histogram"}


@pytest.mark.parametrize(
    ("accept", "starts"),
    [
        (None, "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/plain;version=x;q=", "text/plain; version=0.0.4"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=abc", "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_openmetrics_is_for_who_asks(accept: str | None, starts: str) -> None:
    """Fails with prometheus-client's own choice: a version that is no number is an error there."""
    assert exposed([], accept)[1].startswith(starts)


def test_a_recorded_trace_is_an_exemplar_and_another_is_not() -> None:
    """Fails if the flags of the trace context are not looked at: the trace would be found nowhere."""
    ingest = Histogram("reflex_ingest_duration_seconds")
    ingest.observe(0.02, (), UNRECORDED)
    ingest.observe(0.2, (), TRACED)
    shown = samples(ingest.read(), OPENMETRICS)
    exemplars = {key[1]: sample.exemplar for key, sample in shown.items() if sample.exemplar}
    ((labels, exemplar),) = exemplars.items()
    assert labels == (("le", "0.25"),)
    assert exemplar.labels == {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert exemplar.value == 0.2


def test_labels_without_end_share_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails without the cap, and if what is beyond it is dropped: the sum has to stay right."""
    monkeypatch.setattr(series, "MAX_SERIES", 3)
    accepted, runs = Counter("reflex_events_accepted_total"), Histogram("reflex_run_duration_seconds")
    for number in range(10):
        accepted.add((f"type.{number}",))
        runs.observe(1, ("shop", f"trigger-{number}"))
    assert {reading.labels: reading.value for reading in accepted.read()} == {
        ("type.0",): 1, ("type.1",): 1, ("type.2",): 1, (OTHER,): 7,
    }  # fmt: skip
    assert len(runs.read()) == 4
    assert runs.values[OTHER, OTHER].counts[runs.values[OTHER, OTHER].counts.index(7)] == 7


def test_processes_add_up() -> None:
    one, other = (Histogram("reflex_run_duration_seconds") for _ in range(2))
    one.observe(0.2, ("shop", "pack"), TRACED)
    other.observe(0.2, ("shop", "pack"))
    other.observe(7, ("shop", "pack"), TRACED)
    other.observe(7, ("shop", "ship"))
    runs = Counter("reflex_runs_total", ("shop", "pack", "dead"))
    found = {(each.name, each.labels): each.value for each in merged([one.read(), other.read(), runs.read()])}
    pack: Any = found["reflex_run_duration_seconds", ("shop", "pack")]
    assert (sum(pack.counts), pack.sum) == (3, pytest.approx(7.4))
    assert sorted(exemplar.value for exemplar in pack.exemplars if exemplar) == [0.2, 7]
    ship: Any = found["reflex_run_duration_seconds", ("shop", "ship")]
    assert sum(ship.counts) == 1
    assert found["reflex_runs_total", ("shop", "pack", "dead")] == 0


def test_the_newest_exemplar_is_kept() -> None:
    old, new = Exemplar(TRACED, 1, at=10), Exemplar(TRACED, 2, at=11)
    assert series.newest([new, None, old]) is new
    assert series.newest([None]) is None

"""The numbers of several processes under one supervisor: sums, processes that hang, and processes that are gone."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reflex.core.errors import ConfigurationError
from reflex.core.series import Counter, Histogram, Labels, Reading, gauges
from reflex.worker import group_metrics
from reflex.worker.group_metrics import DESCRIPTOR, GroupMetrics, Member, answer_supervisor
from reflex.worker.showing import metrics_port

TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RUN = ("shop", "pack", "succeeded")


class Process:
    """What a worker process is to its supervisor, in a thread of this one."""

    def __init__(self, group: GroupMetrics) -> None:
        self.group = group
        self.runs = Counter("reflex_runs_total")
        self.durations = Histogram("reflex_run_duration_seconds")
        self.free = threading.Event()
        self.free.set()
        self.member: Member = group.join()
        # As across a fork: the process has a descriptor of its own for the same socket.
        os.environ[DESCRIPTOR] = str(os.dup(self.member.theirs.fileno()))
        answer_supervisor(self.read)
        self.member.started()

    def read(self) -> list[Reading]:
        readings = [*self.runs.read(), *self.durations.read(), *gauges("reflex_slots", {("shop", "used"): 1})]
        self.free.wait()
        return readings

    def dies(self) -> None:
        self.group.leave(self.member)


@pytest.fixture
def group() -> Iterator[GroupMetrics]:
    group = GroupMetrics()
    yield group
    for member in list(group._members):
        group.leave(member)


def found(group: GroupMetrics) -> dict[tuple[str, Labels], Any]:
    return {(each.name, each.labels): each.value for each in group.read()}


def test_the_answer_is_the_sum_with_exemplars(group: GroupMetrics) -> None:
    """Fails if one process's number stands for all, or an exemplar is lost on the way."""
    one, other = Process(group), Process(group)
    assert DESCRIPTOR not in os.environ, "what an agent starts would take itself for a worker"
    one.runs.add(RUN, 3)
    other.runs.add(RUN, 4)
    other.durations.observe(0.2, ("shop", "pack"), TRACED)
    numbers = found(group)
    assert numbers["reflex_runs_total", RUN] == 7
    assert numbers["reflex_slots", ("shop", "used")] == 2
    durations = numbers["reflex_run_duration_seconds", ("shop", "pack")]
    assert [each.trace_id for each in durations.exemplars if each] == [TRACED[3:35]]


def test_a_counter_does_not_fall_when_a_process_dies(group: GroupMetrics) -> None:
    """What it counted since it was last asked is lost, as by a restart; nothing else. What it held is gone with it."""
    one, other = Process(group), Process(group)
    one.runs.add(RUN, 3)
    other.runs.add(RUN, 4)
    other.durations.observe(0.2, ("shop", "pack"))
    assert found(group)["reflex_runs_total", RUN] == 7
    other.runs.add(RUN, 100)
    other.dies()
    numbers = found(group)
    assert numbers["reflex_runs_total", RUN] == 7
    assert sum(numbers["reflex_run_duration_seconds", ("shop", "pack")].counts) == 1
    assert numbers["reflex_slots", ("shop", "used")] == 1
    again = Process(group)
    again.runs.add(RUN, 1)
    assert found(group)["reflex_runs_total", RUN] == 8
    again.dies()
    one.dies()
    assert found(group)["reflex_runs_total", RUN] == 8


def test_a_process_that_does_not_answer_is_shown_as_it_was(
    group: GroupMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the scrape waits for it, if it is left out, or if an answer that comes late is taken for a later one."""
    monkeypatch.setattr(group_metrics, "ANSWER_S", 20)
    one, other = Process(group), Process(group)
    one.runs.add(RUN, 3)
    other.runs.add(RUN, 4)
    assert found(group)["reflex_runs_total", RUN] == 7
    monkeypatch.setattr(group_metrics, "ANSWER_S", 0.1)
    other.free.clear()
    one.runs.add(RUN, 1)
    assert found(group)["reflex_runs_total", RUN] == 8
    other.runs.add(RUN, 1)
    assert found(group)["reflex_runs_total", RUN] == 8
    monkeypatch.setattr(group_metrics, "ANSWER_S", 20)
    other.free.set()
    # Two answers from before come first, which do not know of the last run.
    assert found(group)["reflex_runs_total", RUN] == 9


def test_the_port_gives_them_to_whoever_asks(group: GroupMetrics) -> None:
    one = Process(group)
    one.runs.add(RUN, 3)
    one.durations.observe(0.2, ("shop", "pack"), TRACED)
    with metrics_port("127.0.0.1", 0, group.read) as port:
        classic = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
        accept = {"accept": "application/openmetrics-text;version=1.0.0"}
        openmetrics = httpx2.get(f"http://127.0.0.1:{port}/metrics", headers=accept).text
        samples = [each for family in text_string_to_metric_families(classic) for each in family.samples]
        assert [each.value for each in samples if each.name == "reflex_runs_total"] == [3]
        assert TRACED[3:35] in openmetrics
        assert TRACED[3:35] not in classic
        taken = pytest.raises(ConfigurationError, match=r"Address already in use.*REFLEX_METRICS_PORT")
        with taken, metrics_port("127.0.0.1", port, group.read):
            pass

"""The numbers of real processes, scraped and pushed, and the alerts that they set off."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from reflex.gateway import metrics
from reflex.gateway.app import create_app
from tests.acceptance.shop import Shop
from tests.acceptance.test_traces import TRACE_ID, collecting
from tests.deploy.promql import Sample, Scrapes, evaluate
from tests.gateway.gateways import in_process, settings_for
from tests.processes import eventually, free_port, gateway, worker

RULES = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0"}
AGENT = """

from pydantic_ai import Agent

Trigger("greet", type_filter("http"), Agent(instructions="Greet."))
"""


class Scraped:
    """What one process showed."""

    def __init__(self, text: str, instance: str) -> None:
        self.samples: list[Sample] = []
        self.traces: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(text):
            for each in family.samples:
                labels = {**each.labels, "instance": instance}
                self.samples.append(Sample(each.name, frozenset(labels.items()), each.value))
                if each.exemplar:
                    self.traces.setdefault(family.name, set()).add(each.exemplar.labels["trace_id"])

    def values(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """By the values of these labels."""
        found = [(dict(each.labels), each.value) for each in self.samples if each.name == name]
        return {tuple(given[label] for label in labels): value for given, value in found}


async def scrape(client: httpx2.AsyncClient, url: str) -> Scraped:
    answer = await client.get(f"{url}/metrics", headers=OPENMETRICS)
    assert answer.status_code == 200, answer.text
    return Scraped(answer.text, url)


def firing(now: list[Sample], before: list[Sample]) -> dict[str, dict[Any, float]]:
    """The alerts whose conditions hold; for how long they must is left out."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found = {rule["alert"]: evaluate(rule["expr"], Scrapes(now, before)) for rule in group["rules"]}
    return {name: vector for name, vector in found.items() if vector}


def pushed(bodies: list[bytes], name: str) -> dict[tuple[str, ...], float]:
    """The last number of each series that a collector was sent, by service, instance and labels."""
    found: dict[tuple[str, ...], float] = {}
    for body in bodies:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            about = {a.key: a.value.string_value for a in resource.resource.attributes}
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                if metric.name != name:
                    continue
                data = getattr(metric, metric.WhichOneof("data") or "")
                for point in data.data_points:
                    labels = {a.key: a.value.string_value for a in point.attributes}
                    value = point.count if metric.HasField("histogram") else point.as_double or point.as_int
                    key = about["service.name"], about["service.instance.id"], *map(labels.get, sorted(labels))
                    found[key] = value  # pyright: ignore[reportArgumentType]
    return found


def total(bodies: list[bytes], name: str, service: str, *labels: str) -> float:
    return sum(
        value for key, value in pushed(bodies, name).items() if key[0] == service and set(labels) <= set(key[2:])
    )


async def test_known_work_gives_the_same_exact_numbers_to_who_scrapes_and_to_a_collector(shop: Shop) -> None:
    """Two processes of a worker, one answer. Fails if one of them speaks for both; if retries or what died is counted
    wrongly; if a trace gets lost on the way; or if what is pushed differs from what is scraped."""
    (shop.folder / "acting.py").write_text((shop.folder / "acting.py").read_text() + AGENT)
    async with collecting() as collector:
        port = free_port()
        env = {
            "DEFAULT_MODEL": "offline", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "300", "REFLEX_METRICS_PORT": str(port),
        }  # fmt: skip
        async with (
            gateway(shop.database_url, shop.folder, env=env) as front,
            worker(shop.database_url, shop.folder, app="acting", processes=2, env=env),
            httpx2.AsyncClient(timeout=30) as client,
        ):
            traced = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
            order: dict[str, Any] = {"type": "order.created"}
            failing = {**order, "payload": {"fail": "always"}}
            for event in (*[order] * 6, failing, {"type": "http"}, {"type": "not a type"}):
                await client.post(f"{front.url}/events", json=event, headers=traced)
            back_url = f"http://127.0.0.1:{port}"
            runs = {
                ("pack", "succeeded"): 6, ("pack", "retry"): 2, ("pack", "dead"): 1, ("greet", "succeeded"): 1,
            }  # fmt: skip

            async def all_counted() -> Scraped | None:
                back = await scrape(client, back_url)
                counted = back.values("reflex_runs_total", "trigger", "outcome")
                return back if sum(counted.values()) >= sum(runs.values()) else None

            back: Scraped | None = await eventually(all_counted, timeout_s=60)
            assert back is not None
            assert back.values("reflex_runs_total", "trigger", "outcome") == runs
            assert back.values("reflex_deliveries_died_total", "app", "trigger", "reason") == {
                ("acting", "pack", "exception"): 1
            }
            assert back.values("reflex_run_duration_seconds_count", "trigger") == {("pack",): 9, ("greet",): 1}
            assert back.values("reflex_slots", "state") == {("used",): 0, ("free",): 200}
            assert back.values("reflex_model_requests_total", "trigger") == {("greet",): 1}
            assert back.values("reflex_model_tokens_total", "direction")["output",] > 0
            assert back.traces == {"reflex_run_duration_seconds": {TRACE_ID}}

            async def is_shown() -> Scraped | None:
                front_now = await scrape(client, front.url)
                return front_now if front_now.values("reflex_dead_letters", "trigger") else None

            shown: Scraped | None = await eventually(is_shown)
            assert shown is not None
            assert shown.values("reflex_events_accepted_total", "type") == {("order.created",): 7, ("http",): 1}
            assert shown.values("reflex_publishes_refused_total", "reason") == {("event_rejected",): 1}
            assert shown.values("reflex_ingest_duration_seconds_count") == {(): 8}
            assert shown.traces == {"reflex_ingest_duration_seconds": {TRACE_ID}}
            assert shown.values("reflex_workers", "state") == {("live",): 2}
            everything = [*shown.samples, *back.samples]
            assert firing(everything, everything).keys() == {"ReflexDeadLetters"}

            bodies = collector.metrics
            name = "reflex-worker"
            await eventually(lambda: total(bodies, "reflex_runs_total", name) == 10)
            for (trigger, outcome), count in runs.items():
                assert total(bodies, "reflex_runs_total", name, trigger, outcome) == count
            assert total(bodies, "reflex_run_duration_seconds", name, "pack") == 9
            assert len({key[1] for key in pushed(bodies, "reflex_slots")}) == 2, "each process is told apart"
            await eventually(lambda: total(bodies, "reflex_dead_letters", "reflex-gateway", "pack") == 1)
            assert total(bodies, "reflex_events_accepted_total", "reflex-gateway", "order.created") == 7
            assert total(bodies, "reflex_ingest_duration_seconds", "reflex-gateway") == 8
            exemplars = {
                exemplar.trace_id.hex()
                for body in bodies
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
                for point in metric.histogram.data_points
                for exemplar in point.exemplars
            }
            assert exemplars == {TRACE_ID}


async def test_a_killed_worker_sets_off_alerts_which_end_when_another_one_takes_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a run whose worker is gone looks like any other, or if what was reaped is not counted."""
    monkeypatch.setattr(metrics, "FRESH_S", 0)
    ports = free_port(), free_port()
    quick: dict[str, Any] = {"lease_timeout_s": 1, "poll_interval_s": 0.2}
    app = create_app(settings_for(shop.database_url, lease_timeout_s=1))
    async with (
        in_process(app) as client,
        httpx2.AsyncClient(timeout=30) as outside,
        shop.worker(**quick, metrics_port=ports[0]) as one,
        shop.worker(**quick, metrics_port=ports[1]) as other,
    ):
        (event_id,) = await shop.publish({"sleep_s": 60, "only_first": True})
        run = await shop.has_started(event_id)
        killed, left, port = (one, other, ports[1]) if run.pid == one.pid else (other, one, ports[0])
        left_url = f"http://127.0.0.1:{port}"
        before = (await scrape(outside, left_url)).samples

        async def alerts(*more: Sample) -> dict[str, dict[Any, float]]:
            return firing([*(await scrape(client, "")).samples, *more], before)

        assert await alerts(*before) == {}
        left.freeze()
        await killed.kill()
        await shop.publish({})
        # Nobody is woken for a delivery that has waited for a second.
        await shop.conn.execute("UPDATE reflex.event SET created_at = now() - interval '10 minutes'")
        await shop.conn.execute("UPDATE reflex.worker SET heartbeat_at = heartbeat_at - interval '1 minute'")

        async def all_set_off() -> dict[str, dict[Any, float]] | None:
            found = await alerts()
            return found if "ReflexNoLiveWorker" in found else None

        found: dict[str, dict[Any, float]] | None = await eventually(all_set_off)
        assert found is not None
        assert found.keys() == {
            "ReflexNoLiveWorker", "ReflexOldestPending", "ReflexOwnerlessRuns", "ReflexWorkerSilent"
        }  # fmt: skip
        assert next(iter(found["ReflexNoLiveWorker"].values())) == 1
        assert 600 <= next(iter(found["ReflexOldestPending"].values())) < 700
        assert (await scrape(client, "")).values("reflex_ownerless_runs") == {(): 1}

        left.thaw()
        await shop.becomes("succeeded", event_id, timeout_s=30)
        await eventually(lambda: no_alert(client))
        after = (await scrape(outside, left_url)).samples
        assert (await alerts(*after)).keys() == {"ReflexWorkersLost"}
        assert (await scrape(outside, left_url)).values("reflex_leases_reaped_total") == {(): 1}


async def no_alert(client: httpx2.AsyncClient) -> bool:
    return firing((await scrape(client, "")).samples, []) == {}

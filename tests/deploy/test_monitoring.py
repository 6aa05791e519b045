"""The alerts and the dashboard against the table of metrics and the guide; `promtool` checks them if it is there."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from reflex.core.metrics import FAMILIES
from tests.deploy.promql import Sample, Scrapes, evaluate, labels_of, metrics_in

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/alerts.yml"
SCRAPING = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARD = ROOT / "deploy/grafana/reflex.json"
GUIDE = ROOT / "docs/guides/alerts.md"

DURATION = re.compile(r"\d+[smhd]")
TEMPLATE = re.compile(r"{{ (?:\$labels\.(\w+)|\$value)(?: \| \w+)? }}")


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    assert group.keys() == {"name", "rules"}
    return group["rules"]


def names() -> list[str]:
    return [alert["alert"] for alert in alerts()]


@pytest.mark.parametrize("alert", alerts(), ids=names())
def test_an_alert_is_whole_and_asks_for_what_there_is(alert: dict[str, Any]) -> None:
    """Fails for a metric or a label that the table has not, and for one that is written into the text only."""
    assert alert.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert re.fullmatch(r"Reflex[A-Z][A-Za-z]+", alert["alert"])
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert DURATION.fullmatch(alert.get("for", "0s"))
    result = labels_of(alert["expr"])
    annotations = alert["annotations"]
    assert annotations.keys() == {"summary", "description"}
    assert "First: " in annotations["description"], "the first command to run"
    for text in annotations.values():
        assert {match[1] for match in TEMPLATE.finditer(text)} - {None} <= result
        assert "{{" not in TEMPLATE.sub("", text)


def test_each_alert_has_its_section_and_each_section_its_alert() -> None:
    guide = GUIDE.read_text()
    sections = re.findall(r"^### (.+)$", guide, re.MULTILINE)
    assert sorted(sections) == sorted(names())
    for section in guide.split("\n### ")[1:]:
        assert "**Cure:**" in section, section.partition("\n")[0]


def test_commands_that_the_alerts_name_exist() -> None:
    from typer.main import get_command

    from reflex.cli.main import app

    known: Any = get_command(app)
    for alert in alerts():
        command = alert["annotations"]["description"].partition("First: ")[2]
        if command.startswith("reflex "):
            found = known
            for word in command.split()[1:]:
                if word.startswith("-"):
                    break
                found = found.commands[word]


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Fails for a name or a label that was changed in the code only, and for a legend that shows nothing."""
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel.get("targets", ()):
            result = labels_of(target["expr"])
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= result, target
            assert set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"} <= variables
    for variable in dashboard["templating"]["list"]:
        for selector, label in re.findall(r"label_values\((.+), (\w+)\)", variable.get("definition", "")):
            assert label in labels_of(selector)


def test_every_metric_is_on_the_dashboard() -> None:
    """What nobody looks at need not be counted."""
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for text in expressions() for name in metrics_in(text)}
    assert shown >= FAMILIES.keys()


def test_the_jobs_that_alerts_name_are_those_that_are_scraped() -> None:
    jobs = {job["job_name"] for job in yaml.safe_load(SCRAPING.read_text())["scrape_configs"]}
    assert jobs == {"reflex-gateway", "reflex-worker"}
    assert set(re.findall(r'job="([^"]+)"', RULES.read_text())) <= jobs
    assert yaml.safe_load(SCRAPING.read_text())["rule_files"] == [RULES.name]


def test_promtool_takes_the_rules_and_the_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; the other tests read the rules strictly")
    for what, file in (("rules", RULES), ("config", SCRAPING)):
        done = subprocess.run([promtool, "check", what, str(file)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def sample(name: str, value: float, **labels: str) -> Sample:
    return Sample(name, frozenset(labels.items()), value)


def test_our_reading_of_expressions_is_prometheuss() -> None:
    """The expected results were compared with those of Prometheus itself."""
    due = [sample("reflex_deliveries", 3, app="a", trigger="t", state="pending", instance=i) for i in ("1", "2")]
    due += [sample("reflex_deliveries", 9, app="a", trigger="t", state="running", instance="1")]
    workers = [sample("reflex_trigger_workers", 0, app="a", trigger="t", instance=i) for i in ("1", "2")]
    rule = next(alert["expr"] for alert in alerts() if alert["alert"] == "ReflexNoLiveWorker")
    labels = frozenset({("app", "a"), ("trigger", "t")})
    assert evaluate(rule, Scrapes([*due, *workers])) == {labels: 3}
    served = [sample("reflex_trigger_workers", 1, app="a", trigger="t", instance="1")]
    assert evaluate(rule, Scrapes([*due, *served])) == {}

    def runs(succeeded: float, dead: float) -> list[Sample]:
        return [
            sample("reflex_runs_total", value, app="a", trigger="t", outcome=outcome)
            for outcome, value in (("succeeded", succeeded), ("dead", dead), ("skipped", 99))
        ]

    rule = next(alert["expr"] for alert in alerts() if alert["alert"] == "ReflexRunsFail")
    assert evaluate(rule, Scrapes(runs(11, 3), runs(10, 0))) == {labels: 0.75}
    assert evaluate(rule, Scrapes(runs(13, 1), runs(10, 0))) == {}
    buckets = [("0.5", 90), ("1.0", 98), ("2.5", 100), ("+Inf", 100)]
    slow = [sample("reflex_ingest_duration_seconds_bucket", count, le=le) for le, count in buckets]
    none = [sample("reflex_ingest_duration_seconds_bucket", 0, le=le) for le, _ in buckets]
    rule = next(alert["expr"] for alert in alerts() if alert["alert"] == "ReflexIngestSlow")
    assert evaluate(rule, Scrapes(slow, none)) == {frozenset(): pytest.approx(1.75)}


@pytest.mark.parametrize(
    "wrong",
    [
        "max(reflex_inventions)",
        'max(reflex_slots{trigger="t"})',
        "sum by (trigger) (reflex_slots)",
        "rate(reflex_slots[5m])",
        "sum(reflex_deliveries)",
        "rate(reflex_runs_total)",
        "max(reflex_run_duration_seconds)",
        "max(reflex_slots) >",
        "median(reflex_slots)",
        "rate(reflex_runs_total[5 minutes])",
    ],
)
def test_what_is_wrong_is_seen(wrong: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        labels_of(wrong)

"""What is documented, drawn and alerted on exists; and all that exists is documented."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

from prometheus_client import Counter, Histogram

from worker.cli.metrics import metrics
from worker.metrics.gauges import told
from worker.metrics.meters import Meters
from worker.observe import Event
from worker.operation import State, Verdict
from worker.store.deliveries import Source, Webhooks
from worker.store.measures import AccountMeasures, FleetMeasures, Measures
from worker.store.views import Announcements, Count

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = (DEPLOY / "prometheus" / "alerts.yml").read_text()
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text()
METRICS = (DEPLOY / "METRICS.md").read_text()
DASHBOARD = json.loads((DEPLOY / "grafana" / "ringonce.json").read_text())
EVERYTHING = Measures(
    counts=[Count("default", "sms.send", State.UNRESOLVED, 1, None, None)],
    accounts=[
        AccountMeasures(
            "default",
            paused=True,
            blocked=True,
            breaker_open=True,
            throttled_count=1,
            due_count=1,
            oldest_due_seconds=1.0,
            in_doubt_count=1,
            window_seconds=1.0,
        )
    ],
    fleet=FleetMeasures(1, shut=True, worker_count=1, slot_count=1, oldest_transaction_seconds=1.0),
    announcements=Announcements(1, timedelta(seconds=1), tried=True),
    sources=[Source("default", "sms.send", timedelta(minutes=10), None, None, 1)],
    webhooks=Webhooks(1, timedelta(seconds=1)),
)
KINDS = {"counter": "_total", "gauge": "", "histogram": ""}


def existing() -> dict[str, tuple[str, set[str]]]:
    """Every metric: its kind, and its labels."""
    counted = [
        (family, set(metric._labelnames))
        for metric in vars(Meters()).values()
        if isinstance(metric, Counter | Histogram)
        for family in metric.describe()
    ]
    read = [
        (family, {label for sample in family.samples for label in sample.labels})
        for family in told(EVERYTHING)
    ]
    return {family.name + KINDS[family.type]: (family.type, labels) for family, labels in (*counted, *read)}


def series() -> set[str]:
    """The name of everything that can be asked for."""
    parts = ("_bucket", "_sum", "_count")
    return {
        name + part
        for name, (kind, _) in existing().items()
        for part in (parts if kind == "histogram" else ("",))
    }


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bringonce_\w+", text))


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_table_of_metrics_lists_all_there_are_with_kind_and_labels() -> None:
    rows = re.findall(r"^\| `(ringonce_\w+)` \| (\w+) \| ([\w, ]*) ?\|", METRICS, re.MULTILINE)
    listed = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert listed == existing()
    assert len(rows) == len(listed) > 20


def test_every_metric_is_named_for_ringonce_and_says_what_it_is() -> None:
    families = [
        family
        for metric in vars(Meters()).values()
        if isinstance(metric, Counter | Histogram)
        for family in metric.describe()
    ]
    for family in (*families, *told(EVERYTHING)):
        assert re.fullmatch(r"ringonce(_[a-z]+)+", family.name)
        assert len(family.documentation) > 10


def test_every_alert_and_every_panel_asks_for_what_exists() -> None:
    for text in (ALERTS, *expressions()):
        assert names_in(text.replace("ringonce-worker", "")) - series() == set(), text
    assert len(expressions()) > 20


def test_every_metric_is_drawn_somewhere() -> None:
    drawn = names_in("".join(expressions()))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in drawn} == set(existing())


def test_alerts_and_panels_ask_for_words_that_are_said() -> None:
    words = {
        "event": {event.value for event in Event},
        "verdict": {verdict.value for verdict in Verdict},
        "state": {state.value for state in State},
    }
    for text in (ALERTS, *expressions()):
        for label, asked in re.findall(r'(event|verdict|state)=~?"([^"$]*)"', text):
            assert set(asked.split("|")) <= words[label], text


def test_every_alert_points_to_its_heading_in_the_runbook_and_every_heading_has_its_alert() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    headings = re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)
    assert sorted(alerts) == sorted(headings)
    pointed = re.findall(r"runbook: deploy/RUNBOOK\.md#(\S+)", ALERTS)
    assert pointed == [alert.lower() for alert in alerts]
    for heading in headings:
        text = RUNBOOK.partition(f"### {heading}\n")[2].partition("\n### ")[0]
        assert "**Look**" in text
        assert "**Do**" in text


def test_the_panels_do_not_lie_on_one_another() -> None:
    taken = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_is_told_of_the_port_that_the_command_has() -> None:
    [port] = [option.default for option in metrics.params if option.name == "port"]
    assert f'targets: ["127.0.0.1:{port}"]' in (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert f"ringonce metrics --port {port}" in METRICS

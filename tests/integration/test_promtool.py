"""Prometheus' own tool on what stands in deploy/prometheus, and on what is served."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from tests.services import require_promtool
from worker.metrics.meters import Meters

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


@pytest.fixture
def promtool() -> str:
    return require_promtool()


def run(*command: str, given: bytes = b"", folder: Path = FOLDER) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=given, cwd=folder, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "arguments",
    [
        "check rules alerts.yml",
        "check config prometheus.yml",
        "check config compose.yml",
        "test rules alerts_test.yml",
    ],
)
def test_promtool_finds_nothing_wrong(promtool: str, arguments: str) -> None:
    ran = run(promtool, *arguments.split())
    assert (ran.returncode, b"FAILED" in ran.stdout + ran.stderr) == (0, False), ran.stdout + ran.stderr


def test_an_alert_that_does_not_fire_is_noticed(promtool: str, tmp_path: Path) -> None:
    for name in ("alerts.yml", "alerts_test.yml"):
        (tmp_path / name).write_text(
            (FOLDER / name).read_text().replace("claims_shut == 1", "claims_shut == 2")
        )
    assert run(promtool, "test", "rules", "alerts_test.yml", folder=tmp_path).returncode != 0


def test_promtool_finds_the_names_of_metrics_well_chosen(promtool: str) -> None:
    registry = CollectorRegistry()
    for metric in vars(Meters()).values():
        if isinstance(metric, Counter | Histogram):
            registry.register(metric)
    ran = run(promtool, "check", "metrics", given=generate_latest(registry))
    complaints = [line for line in ran.stderr.decode().splitlines() if "_created" not in line]
    assert complaints == []


def test_without_promtool_a_test_is_skipped_on_a_laptop_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="promtool is needed"):
        require_promtool()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="promtool is needed"):
        require_promtool()

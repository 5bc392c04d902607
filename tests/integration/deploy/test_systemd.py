"""The units of systemd: known to systemd where it is, locked up, and the probe in step with its worker."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.deploy.reading import PROGRAM, SYSTEMD, unit, units

FILES = sorted(SYSTEMD.iterdir())
KNOWN = {
    "Unit": {"Description", "After", "Wants", "Requisite", "StartLimitIntervalSec"},
    "Install": {"WantedBy"},
    "Timer": {"OnActiveSec", "OnUnitInactiveSec", "AccuracySec"},
}
"""What a machine without systemd can tell about names: these are right, others are to be looked up."""
LOCKED = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectControlGroups": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "SystemCallFilter": "@system-service",
}
EXPOSED = 2.5
"""Where systemd's own judgement of 0 to 10 begins to be worse than it was when these were written."""


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not here: the names are compared with those that are known")
    return program


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, whose program is one that is here."""
    for path in FILES:
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, "/bin/true"))
    return tmp_path


def names_of_instances(folder: Path) -> list[str]:
    """The paths of all units; templates as their first instance."""
    found = []
    for path in sorted(folder.iterdir()):
        if "@" in path.name:
            (folder / path.name.replace("@", "@1")).symlink_to(path)
        found.append(str(folder / path.name.replace("@", "@1")))
    return found


def test_systemd_finds_nothing_wrong(analyze: str, installed: Path) -> None:
    ran = subprocess.run(
        [analyze, "verify", "--man=no", *names_of_instances(installed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    complaints = [line for line in ran.stderr.splitlines() if str(installed) in line or "ringonce" in line]
    assert complaints == []


def test_systemd_would_find_a_misspelt_name(analyze: str, installed: Path) -> None:
    path = installed / "ringonce-migrate.service"
    path.write_text(path.read_text().replace("ProtectSystem", "ProtectSystems"))
    ran = subprocess.run(
        [analyze, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False, timeout=30
    )
    assert "ProtectSystems" in ran.stderr


@pytest.mark.parametrize("name", units())
def test_a_service_is_locked_up(name: str) -> None:
    service = units()[name]["Service"]
    assert {key: service[key] for key in LOCKED} == {key: [value] for key, value in LOCKED.items()}
    assert service["User"] == service["Group"] == ["ringonce"]


def test_systemd_thinks_so_too(analyze: str, installed: Path) -> None:
    for path in sorted(installed.glob("*.service")):
        ran = subprocess.run(
            [
                analyze,
                "security",
                "--offline=yes",
                "--no-pager",
                f"--threshold={EXPOSED * 10:.0f}",
                str(path),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        if "--offline" in ran.stderr:
            pytest.skip("this systemd judges only what runs")
        assert ran.returncode == 0, ran.stdout[-400:] + ran.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_name_outside_of_a_service_is_known(path: Path) -> None:
    for section, names in unit(path).items():
        if section != "Service":
            assert set(names) <= KNOWN[section]


def test_a_url_is_handed_over_as_a_credential_and_an_app_key_can_be_renewed() -> None:
    for name, sections in units().items():
        service = sections["Service"]
        [credential] = service["LoadCredential"]
        assert credential.startswith("database_url:/etc/ringonce/"), name
        assert "RINGONCE_DATABASE_URL_FILE=%d/database_url" in service["Environment"], name
    worker = units()["ringonce-worker@.service"]["Service"]
    assert "RINGONCE_SECRETS_DIR=/etc/ringonce/keys" in worker["Environment"]  # a credential is copied once


def test_the_probe_looks_at_the_worker_of_its_name_as_that_worker_calls_itself() -> None:
    worker, probe = (units()[f"ringonce-{name}@.service"] for name in ("worker", "probe"))
    for key in ("LoadCredential", "EnvironmentFile", "User"):
        assert probe["Service"][key] == worker["Service"][key]
    assert set(probe["Service"]["Environment"]) <= set(worker["Service"]["Environment"])
    assert "RINGONCE_NODE=%H-%i" in probe["Service"]["Environment"]
    assert probe["Unit"]["Requisite"] == ["ringonce-worker@%i.service"]
    assert (SYSTEMD / "ringonce-probe@.timer").exists()


@pytest.mark.parametrize(("status", "restarted"), [("0", False), ("1", True), ("2", False), ("TERM", False)])
def test_only_a_clear_no_of_the_probe_starts_a_worker_anew(
    status: str, tmp_path: Path, *, restarted: bool
) -> None:
    [line] = units()["ringonce-probe@.service"]["Service"]["ExecStopPost"]
    script = re.fullmatch(r"\+/bin/sh -c '(.*)'", line)
    assert script is not None
    asked = tmp_path / "asked"
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    (tmp_path / "systemctl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "EXIT_STATUS": status}
    command = script[1].replace("$$", "$").replace("%i", "1")
    subprocess.run(["/bin/sh", "-c", command], env=environment, check=True, timeout=10)
    assert asked.exists() is restarted
    if restarted:
        assert asked.read_text() == "--no-block try-restart ringonce-worker@1.service\n"

"""Image, compose, Kubernetes and systemd: what they start exists, is told only settings, and is not root."""

from __future__ import annotations

import re
import shlex
import tomllib
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from celery.bin.worker import worker as celery_worker

from tests.integration.cli.examples import parsed
from tests.integration.deploy.reading import (
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    KUBERNETES,
    ROOT,
    SYSTEMD,
    Program,
    compose,
    images,
    instructions,
    manifests,
    pods,
    programs,
    typed_in_the_head_of_compose,
    units,
)
from worker.house import RECORD_SECONDS
from worker.settings import FILE_NAMES, SETTING_NAMES, load_settings

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = [
    COMPOSE,
    DOCKERFILE,
    ROOT / ".dockerignore",
    DEPLOY / "postgres" / "logins.sql",
    *sorted(path for folder in (KUBERNETES, SYSTEMD, DEPLOY / "prometheus") for path in folder.iterdir()),
    *sorted((DEPLOY / "grafana" / "provisioning").rglob("*.yml")),
]
PINNED = re.compile(r"[a-z/]+:v?\d+(\.\d+)+(-[a-z]\w*)?(@sha256:[0-9a-f]{64})?")
SECRET = re.compile(
    r"://[^\s/:@]+:(?!\$)[^\s/@]+@|(?i:password|passwd|token|secret|app_key)['\"]?\s*[:=]\s*['\"]?[\w+/]{6,}['\"]?\s*$",
    re.MULTILINE,
)
MARGIN = timedelta(seconds=30)
"""Beyond the longest call: Celery's own end, and the records."""

each_program = pytest.mark.parametrize("program", programs(), ids=lambda program: program.where)


def test_the_search_finds_every_kind_of_program() -> None:
    started = {program.words[0] for program in programs()}
    assert started == {"worker", "dashboard", "receiver", "metrics", "migrate", "probe", "sandbox"}
    assert len(programs()) > 15


@each_program
def test_every_command_is_one_of_ringonces_with_options_that_it_has(program: Program) -> None:
    if program.words[0] == "worker":
        known = {option for each in celery_worker.params for option in each.opts}
        assert {word for word in program.words if word.startswith("-")} <= known
    else:
        assert parsed(program.words).args == []


def test_every_command_that_the_head_of_compose_types_is_one() -> None:
    typed = [
        re.search(r"docker compose run --rm (?:-T )?migrate (.+)", line)
        for line in typed_in_the_head_of_compose()
    ]
    commands = [shlex.split(each[1]) for each in typed if each]
    assert {words[0] for words in commands} == {"account", "enqueue", "status"}
    for words in commands:
        assert parsed(words).args == []
    assert parsed(["conflict"]).args == []  # named in a sentence


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_of_a_setting_is_one(file: Path) -> None:
    named = set(re.findall(r"\bRINGONCE_[A-Z][A-Z_]*[A-Z]\b", file.read_text()))
    assert named - {*SETTING_NAMES, *FILE_NAMES} == set()


@each_program
def test_every_environment_is_taken_as_it_stands(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets come from files alone: no value in it is one."""
    if not program.environment:
        assert program.words[0] in ("sandbox", "worker")  # the image itself knows of no database
        return
    monkeypatch.chdir(tmp_path)
    for name, value in program.environment.items():
        place = tmp_path / value.lstrip("/")
        if name in FILE_NAMES:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("postgresql://app:word@127.0.0.1/app\n")
        elif value.startswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        is_path = name in FILE_NAMES or value.startswith("/")
        monkeypatch.setenv(name, str(place) if is_path else value)
    assert "RINGONCE_DATABASE_URL" not in program.environment
    assert load_settings().database_url.get_secret_value().endswith("/app")


@each_program
def test_nobody_is_root(program: Program) -> None:
    assert program.user in ("10001:10001", "10001", "ringonce")


def test_no_other_container_is_root_or_may_become_so() -> None:
    for service in compose()["services"].values():
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "container_name" not in service


@pytest.mark.parametrize("image", sorted(set(images())))
def test_every_image_is_pinned(image: str) -> None:
    assert PINNED.fullmatch(image)
    name, _, tag = image.partition(":")
    if name == "ringonce":
        assert tag == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("image", ["postgres", "postgres:latest", "postgres:17", "redis:alpine"])
def test_an_image_that_may_change_would_be_noticed(image: str) -> None:
    assert not PINNED.fullmatch(image)


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_holds_a_secret(file: Path) -> None:
    assert SECRET.findall(file.read_text()) == []
    assert "RINGONCE_APP_KEY" not in file.read_text()


@pytest.mark.parametrize(
    "line",
    [
        "url: postgresql://app:hunter2@db/app",
        "POSTGRES_PASSWORD: hunter2",
        "Environment=APP_KEY=5f2c0a7e",
        "token: 'abcdef'",
    ],
)
def test_a_secret_in_a_file_would_be_noticed(line: str) -> None:
    assert SECRET.search(line)


def test_no_manifest_is_a_secret() -> None:
    assert {each["kind"] for each in manifests()}.isdisjoint({"Secret", "ConfigMap"})


def grace_periods() -> dict[str, timedelta]:
    """How long each kind of worker has between SIGTERM and SIGKILL."""
    [minutes] = re.findall(r"^(\d+)m$", compose()["services"]["worker"]["stop_grace_period"])
    pod = pods()["ringonce-worker"]["spec"]["terminationGracePeriodSeconds"]
    [unit] = units()["ringonce-worker@.service"]["Service"]["TimeoutStopSec"]
    return {
        "compose": timedelta(minutes=int(minutes)),
        "pod": timedelta(seconds=pod),
        "unit": timedelta(seconds=int(unit)),
    }


def test_a_worker_that_is_stopped_has_longer_than_the_longest_call_may_take(conn: psycopg.Connection) -> None:
    row = conn.execute("select max(call_deadline) from outbox.endpoint").fetchone()
    assert row is not None
    needed = row[0] + timedelta(seconds=RECORD_SECONDS) + MARGIN
    assert {name: period for name, period in grace_periods().items() if period <= needed} == {}


def test_the_image_takes_what_the_wheel_is_made_of_and_nothing_else_goes_to_its_builder() -> None:
    target = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PYPROJECT["project"]
    needed = {
        *target["packages"],
        *target["force-include"],
        project["readme"],
        *project["license-files"],
        "pyproject.toml",
    }
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == needed
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == needed


def test_the_image_has_a_python_that_ringonce_supports() -> None:
    based_on = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert len(set(based_on)) == 1
    version = re.search(r"python:(\d+)\.(\d+)\.\d+-slim", based_on[0])
    assert version is not None
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    assert (3, 11) <= tuple(map(int, version.groups())) < (3, 14)
    assert re.search(r"\buv==\d+\.\d+\.\d+$", DOCKERFILE.read_text(), re.MULTILINE)


def test_systemd_tells_a_worker_to_stop_and_not_its_children() -> None:
    """SIGTERM to a pool's child is a cold stop, which cuts its calls."""
    service = units()["ringonce-worker@.service"]["Service"]
    assert service["KillMode"] == ["mixed"]
    assert service["Restart"] == ["always"]

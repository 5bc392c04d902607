"""docker-compose.yml: valid, scalable, in order, and its first steps as they are typed."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
import yaml
from compose_spec import PyCompose
from compose_spec.models import ComposeSpecification
from psycopg.conninfo import make_conninfo

from tests.integration.deploy.reading import DEPLOY, ROOT, Object, compose, typed_in_the_head_of_compose
from tests.postgres import SCHEMA, folder_for_clusters
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres, binaries
from worker.store.connection import check_schema

SERVICES = compose()["services"]
ONE_SHOT = {"migrate"}


def check(whole: Object) -> set[str]:
    """The names of its services; raises what is wrong with it, by the specification's schema or its rules."""
    interpolated = re.sub(r"\$\{SECRETS:\?[^}]*\}", "/secrets", json.dumps(whole))
    ComposeSpecification.model_validate_json(interpolated)
    return set(PyCompose.from_json(interpolated).service_names())


def test_it_is_what_the_specification_says() -> None:
    assert check(compose()) == set(SERVICES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("imgae", "postgres:17"),
        ("user", ["10001"]),
        ("healthcheck", {"test": 5}),
        ("depends_on", {"postgres": {"condition": "soon"}}),
    ],
)
def test_a_mistake_would_be_noticed(name: str, value: object) -> None:
    spoilt = {**SERVICES, "worker": {**SERVICES["worker"], name: value}}
    with pytest.raises(ValueError, match=r"error|unknown|invalid|expected|does not start"):
        check({**compose(), "services": spoilt})


def test_the_services_are_those_that_were_promised() -> None:
    assert set(SERVICES) == {
        *(
            "postgres",
            "valkey",
            "sandbox",
            "migrate",
            "worker",
            "dashboard",
            "receiver",
            "metrics",
            "prometheus",
            "grafana",
        ),
    }


def test_whatever_stays_is_looked_after() -> None:
    for name, service in SERVICES.items():
        assert ("test" in service["healthcheck"]) != (name in ONE_SHOT), name
        assert (service["restart"] == "unless-stopped") != (name in ONE_SHOT), name


def test_workers_can_be_scaled() -> None:
    assert {"container_name", "ports", "hostname"}.isdisjoint(SERVICES["worker"])
    assert "RINGONCE_NODE" not in SERVICES["worker"]["environment"]  # each has its own host name


def test_workers_start_when_the_outbox_is_there() -> None:
    assert SERVICES["worker"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_what_is_served_is_served_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_postgres_and_valkey_are_on_networks_that_lead_nowhere() -> None:
    networks = compose()["networks"]
    for name in ("postgres", "valkey"):
        assert all(networks[each] == {"internal": True} for each in SERVICES[name]["networks"])
    assert [name for name, each in SERVICES.items() if "wakeups" in each["networks"]] == ["valkey", "worker"]


def test_every_name_leads_to_something() -> None:
    whole = compose()
    for service in SERVICES.values():
        assert set(service["networks"]) <= set(whole["networks"])
        assert set(service.get("secrets", [])) <= set(whole["secrets"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for source, *_ in (volume.rsplit(":", 2) for volume in service.get("volumes", [])):
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            elif not source.startswith("$"):
                assert source.partition(":")[0] in whole["volumes"]
    for name, secret in whole["secrets"].items():
        assert secret["file"].startswith("${SECRETS:?"), name
        assert secret["file"].endswith(f"/{name}")


def test_prometheus_finds_the_exporter_and_every_worker() -> None:
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text())["scrape_configs"]
    }
    usual = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert list(jobs) == [job["job_name"] for job in usual]
    assert jobs["ringonce"]["static_configs"] == [{"targets": ["metrics:9478"]}]
    [workers] = jobs["ringonce-worker"]["dns_sd_configs"]
    assert workers["names"] == ["worker"]
    assert str(workers["port"]) == SERVICES["worker"]["environment"]["RINGONCE_METRICS_PORT"]
    for name in ("metrics", "worker"):
        assert "watching" in SERVICES[name]["networks"]
    assert "watching" in SERVICES["prometheus"]["networks"]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What the head of the file makes, typed as it stands there."""
    typed = typed_in_the_head_of_compose()
    first = next(number for number, line in enumerate(typed) if line.startswith("docker"))
    script = "\n".join(typed[:first])
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run(["bash", "-euc", script], env=environment, check=True, timeout=10)
    return tmp_path / "ringonce-secrets"


def test_its_head_makes_every_secret_and_lets_nobody_else_in(secrets: Path) -> None:
    made = {path.name for path in secrets.iterdir()}
    assert set(compose()["secrets"]) | {"keys", "webhooks"} <= made
    assert (secrets / "keys" / "default").read_text() == "sandbox\n"
    assert len((secrets / "webhooks" / "default").read_text()) == 48
    assert secrets.stat().st_mode & 0o777 == 0o700
    words = {path.read_text() for path in secrets.glob("*_password")}
    assert [len(word) for word in words] == [48] * 5
    assert (secrets / "worker_url").read_text().strip() == (
        f"postgresql://ringonce_worker:{(secrets / 'worker_password').read_text()}@postgres:5432/ringonce"
    )


def test_its_logins_may_do_what_workers_and_readers_do_and_no_more(secrets: Path) -> None:
    script = (DEPLOY / "postgres" / "logins.sql").read_text().replace("/run/secrets", str(secrets))
    with (
        tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as folder,
        EmbeddedPostgres(Path(folder), settings=FAST_AND_UNSAFE) as server,
    ):
        url = server.url_of("postgres")
        subprocess.run(
            [str(binaries() / "psql"), "-Xqv", "ON_ERROR_STOP=1", url],
            input=script,
            text=True,
            check=True,
            timeout=20,
        )
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(SCHEMA.read_bytes())
            kept = conn.execute(
                "select rolname from pg_authid where rolcanlogin and rolpassword like 'SCRAM%'"
            ).fetchall()
            assert {"ringonce_worker", "ringonce_reader", "ringonce_receiver"} <= {name for (name,) in kept}
        check_schema(make_conninfo(url, user="ringonce_worker"))
        with psycopg.connect(url, user="ringonce_reader", autocommit=True) as conn:
            assert conn.execute("select * from outbox.status").fetchall() == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("delete from outbox.worker")
        with (
            psycopg.connect(url, user="ringonce_worker", autocommit=True) as conn,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            conn.execute("delete from outbox.operation")

"""The manifests: valid, restricted, wired to each other; and KEDA's question, asked of a real outbox."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import psycopg
import pytest
import yaml

from tests.integration.deploy.reading import KUBERNETES, Object, manifests, of_kind, pods
from worker import probe as probing
from worker.store.administration import add_account

VERSION = "1.32"
"""Of Kubernetes, whose schemas are asked."""
KEDA = json.loads(Path(__file__).with_name("keda.json").read_text())
SECRETS = {
    *("ringonce-owner", "ringonce-worker", "ringonce-reader", "ringonce-receiver"),
    *("ringonce-keys", "ringonce-webhooks"),
}
"""What the head of kustomization.yaml has people make."""

each_object = pytest.mark.parametrize(
    "found", manifests(), ids=lambda each: f"{each['kind']} {each['metadata']['name']}"
)


def is_kedas(found: Object) -> bool:
    return str(found["apiVersion"]).startswith("keda.sh/")


def check(found: Object) -> None:
    """Raises what is wrong with it."""
    if is_kedas(found):
        jsonschema.validate(found, KEDA)
    else:
        kubernetes_validate.validate(found, VERSION, strict=True)


@each_object
def test_every_object_is_valid(found: Object) -> None:
    check(found)


def spoilt(kind: str, *path: str | int, value: object) -> Object:
    """The first of that kind, with a value where none belongs."""
    found: Object = json.loads(json.dumps(of_kind(kind)[0]))
    place: Any = found
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return found


@pytest.mark.parametrize(
    "wrong",
    [
        spoilt("Deployment", "spec", "replica", value=2),
        spoilt("Deployment", "spec", "template", "spec", "terminationGracePeriodSeconds", value="long"),
        spoilt("PodDisruptionBudget", "spec", "maxUnavailabel", value=1),
        spoilt("ScaledObject", "spec", "minReplicas", value=1),
        spoilt("ScaledObject", "spec", "triggers", 0, "metadata", "targetQueryValue", value=5000),
    ],
)
def test_a_mistake_would_be_noticed(wrong: Object) -> None:
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(wrong)


def test_kustomize_lists_every_file_and_no_other() -> None:
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = {path.name for path in KUBERNETES.iterdir()}
    assert set(listed["resources"]) == files - {"kustomization.yaml"}
    assert listed["namespace"] == of_kind("Namespace")[0]["metadata"]["name"]
    assert [image["name"] for image in listed["images"]] == ["ringonce"]
    names = {box["image"].partition(":")[0] for pod in pods().values() for box in pod["spec"]["containers"]}
    assert names == {"ringonce"}


def test_kustomize_makes_of_them_what_stands_there() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not here")
    ran = subprocess.run(
        [kubectl, "kustomize", str(KUBERNETES)], capture_output=True, text=True, check=True, timeout=30
    )
    made = list(yaml.safe_load_all(ran.stdout))
    assert len(made) == len(manifests())
    for each in made:
        check(each)
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "ringonce"


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_as_restricted_as_pods_can_be(name: str) -> None:
    spec = pods()[name]["spec"]
    assert spec["enableServiceLinks"] is False  # RINGONCE_..._PORT is no setting
    assert spec["automountServiceAccountToken"] is False
    outer = spec["securityContext"]
    assert outer["runAsNonRoot"] is True
    assert min(outer["runAsUser"], outer["runAsGroup"]) > 0
    assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
    for box in spec["containers"]:
        assert box["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(box["resources"]) == {"requests", "limits"}


@pytest.mark.parametrize("name", pods())
def test_secrets_are_files_that_only_the_pods_group_may_read(name: str) -> None:
    spec = pods()[name]["spec"]
    mounted = {each["name"]: each["mountPath"] for box in spec["containers"] for each in box["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert mounted.keys() == volumes.keys()
    for volume in volumes.values():
        if "secret" in volume:
            assert volume["secret"]["secretName"] in SECRETS
            assert volume["secret"]["defaultMode"] == 0o440
            assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
    for box in spec["containers"]:
        assert "envFrom" not in box
        assert all("secretKeyRef" not in each.get("valueFrom", {}) for each in box["env"])
        paths = [each["value"] for each in box["env"] if each.get("value", "").startswith("/")]
        assert paths
        assert all(any(path.startswith(place) for place in mounted.values()) for path in paths)


def test_everything_that_selects_pods_selects_some() -> None:
    labels = [pod["metadata"]["labels"] for pod in pods().values()]
    selectors = [each["spec"]["selector"] for each in of_kind("Service")]
    selectors += [
        (each["spec"].get("selector") or each["spec"]["podSelector"]).get("matchLabels", {})
        for each in [*of_kind("PodDisruptionBudget"), *of_kind("NetworkPolicy"), *of_kind("Deployment")]
    ]
    assert len(selectors) > 8
    for selector in selectors:
        assert any(selector.items() <= each.items() for each in labels), selector


def test_whatever_may_be_reached_listens_there() -> None:
    ports = {
        name: {port["containerPort"] for box in pod["spec"]["containers"] for port in box.get("ports", [])}
        for name, pod in pods().items()
    }
    for policy in of_kind("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            name = policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
            assert {port["port"] for port in rule["ports"]} == ports[name]


def test_nothing_is_reached_that_is_not_named() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind("NetworkPolicy")}
    assert policies["ringonce-nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in policies.values():
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            assert rule.get("from") or rule.get("to")
            assert rule["ports"]


def worker() -> Object:
    found: Object = pods()["ringonce-worker"]["spec"]["containers"][0]
    return found


def test_a_worker_is_looked_at_by_what_it_does_and_a_probe_may_end_before_it_is_given_up() -> None:
    live = worker()["livenessProbe"]
    assert live["exec"]["command"] == ["ringonce", "probe"]
    assert live["timeoutSeconds"] > probing.WAIT + 3 * probing.ANSWER_WITHIN
    for name in ("startupProbe", "readinessProbe"):
        assert worker()[name]["exec"]["command"] == ["ringonce", "probe", "--ready", "--wait", "0"]
        assert worker()[name]["timeoutSeconds"] > 3 * probing.ANSWER_WITHIN


def test_a_rollout_takes_no_worker_away_before_another_is_on_duty() -> None:
    [deployment] = [each for each in of_kind("Deployment") if each["metadata"]["name"] == "ringonce-worker"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in deployment["spec"]  # or each `apply` would undo what KEDA did
    assert of_kind("PodDisruptionBudget")[0]["spec"]["maxUnavailable"] == 1


def test_keda_scales_the_workers_that_are_there_by_a_login_that_is_there() -> None:
    [scaled] = of_kind("ScaledObject")
    target = scaled["spec"]["scaleTargetRef"]
    assert target["name"] in {each["metadata"]["name"] for each in of_kind(target["kind"])}
    [authentication] = of_kind("TriggerAuthentication")
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert {each["name"] for each in authentication["spec"]["secretTargetRef"]} <= SECRETS
    assert 1 <= scaled["spec"]["minReplicaCount"] <= scaled["spec"]["fallback"]["replicas"]


def test_keda_is_told_what_is_due_and_may_be_sent(conn: psycopg.Connection) -> None:
    [trigger] = of_kind("ScaledObject")[0]["spec"]["triggers"]

    def told() -> int:
        with conn.transaction(force_rollback=True):
            conn.execute("set local role outbox_reader")
            row = conn.execute(trigger["metadata"]["query"]).fetchone()
            assert row is not None
            return int(row[0])

    assert told() == 0
    for name in ("default", "paused", "blocked"):
        add_account(conn, name, name)
        conn.execute(
            "select outbox.enqueue('sms.send', '{}', account => %s) from generate_series(1, 3)", [name]
        )
    conn.execute(
        "select outbox.enqueue('sms.send', '{}', not_before => clock_timestamp() + interval '1 hour')"
    )
    assert told() == 9
    conn.execute("select outbox.pause('paused', 'a test')")
    conn.execute("select outbox.block('blocked', null, 60, 'a test')")
    assert told() == 3

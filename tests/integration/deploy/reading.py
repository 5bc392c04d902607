"""What stands in the files that operators start ringonce with: programs, environments, images."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[3]
DEPLOY: Final = ROOT / "deploy"
COMPOSE: Final = ROOT / "docker-compose.yml"
DOCKERFILE: Final = DEPLOY / "Dockerfile"
KUBERNETES: Final = DEPLOY / "kubernetes"
SYSTEMD: Final = DEPLOY / "systemd"
PROGRAM: Final = "/opt/ringonce/bin/ringonce"

Object = dict[str, Any]
Sections = dict[str, dict[str, list[str]]]


@dataclass(frozen=True, slots=True)
class Program:
    """One ``ringonce`` that a file starts."""

    where: str
    words: tuple[str, ...]
    environment: Mapping[str, str]
    user: str | None


@cache
def compose() -> Object:
    found: Object = yaml.safe_load(COMPOSE.read_text())
    return found


@cache
def manifests() -> list[Object]:
    """Every object of the manifests, but not kustomize's list of them."""
    files = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
    return [each for path in files for each in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> list[Object]:
    return [each for each in manifests() if each["kind"] == kind]


def pods() -> dict[str, Object]:
    """The template of each pod, by the name of what makes it."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in manifests()
        if each["kind"] in ("Deployment", "Job")
    }


def unit(path: Path) -> Sections:
    """The sections of one of systemd's files; each name has all the values it was given."""
    found: Sections = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in path.read_text().replace("\\\n", " ").splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            found[section][name].append(value)
    return found


def units() -> dict[str, Sections]:
    return {path.name: unit(path) for path in sorted(SYSTEMD.glob("*.service"))}


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, with what stands behind each."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


def images() -> list[str]:
    """Every image that is named anywhere, ours too."""
    based_on = [rest.partition(" ")[0] for word, rest in instructions() if word == "FROM"]
    in_compose = [service["image"] for service in compose()["services"].values()]
    in_pods = [box["image"] for pod in pods().values() for box in pod["spec"]["containers"]]
    return [*based_on, *in_compose, *in_pods]


def programs() -> list[Program]:
    """Every ``ringonce`` that anything starts, or looks with."""
    return [*_in_image(), *_in_compose(), *_in_pods(), *_in_units()]


def _in_image() -> Iterator[Program]:
    said = dict(instructions())
    assert yaml.safe_load(said["ENTRYPOINT"]) == ["ringonce"]
    yield Program("Dockerfile", tuple(yaml.safe_load(said["CMD"])), {}, said["USER"])


def _in_compose() -> Iterator[Program]:
    for name, service in compose()["services"].items():
        if not service["image"].startswith("ringonce:"):
            continue
        environment = service.get("environment", {})
        user = service["user"]
        yield Program(f"compose {name}", tuple(service["command"]), environment, user)
        _, *looks = service["healthcheck"].get("test", ["NONE"])
        if looks[:1] == ["ringonce"]:
            yield Program(f"compose {name} health", tuple(looks[1:]), environment, user)


def _in_pods() -> Iterator[Program]:
    for name, pod in pods().items():
        for box in pod["spec"]["containers"]:
            environment = {each["name"]: each.get("value", "a-field") for each in box["env"]}
            user = str(pod["spec"]["securityContext"]["runAsUser"])
            yield Program(f"pod {name}", tuple(box["args"]), environment, user)
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                command = box.get(probe, {}).get("exec", {}).get("command", [])
                if command:
                    assert command[0] == "ringonce"
                    yield Program(f"pod {name} {probe}", tuple(command[1:]), environment, user)


def _in_units() -> Iterator[Program]:
    for name, sections in units().items():
        service = sections["Service"]
        program, *words = shlex.split(service["ExecStart"][0])
        assert program == PROGRAM
        environment = dict(each.split("=", 1) for each in service["Environment"])
        yield Program(f"unit {name}", tuple(words), environment, service["User"][0])


def typed_in_the_head_of_compose() -> list[str]:
    """The commands in the comment that docker-compose.yml begins with, a line each."""
    head = COMPOSE.read_text().partition("\nname:")[0]
    lines = [line[4:] for line in head.splitlines() if line.startswith("#   ")]
    return re.sub(r"\|\n\s*", "| ", "\n".join(lines)).splitlines()

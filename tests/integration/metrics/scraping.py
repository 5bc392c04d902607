"""Reading what Prometheus would read."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.request import ProxyHandler, build_opener

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

PATIENCE = 20.0
_open = build_opener(ProxyHandler({})).open

Values = dict[tuple[str, ...], float]
"""By the metric's name and its labels, in the order of their names."""


def fetch(url: str) -> str:
    """What *url* has to say."""
    with _open(url, timeout=PATIENCE) as answer:
        text: bytes = answer.read()
        return text.decode()


def scrape(url: str) -> Values:
    """Every sample that *url* tells of."""
    return values_of(text_string_to_metric_families(fetch(url)))


def values_of(families: Iterable[Metric]) -> Values:
    """Every sample of *families*."""
    return {
        (
            sample.name.removeprefix("ringonce_"),
            *(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in families
        for sample in family.samples
    }


def free_port() -> int:
    """A port that nobody has, as far as one can know."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port

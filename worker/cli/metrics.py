"""``ringonce metrics``: what stands where, for Prometheus."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Final

import click
from prometheus_client import CollectorRegistry

from worker import observe
from worker.metrics.gauges import Gauges
from worker.metrics.serving import Server
from worker.settings import load_settings

__all__ = ["metrics"]

EXAMPLES: Final = """\b
Examples:
  ringonce metrics
  ringonce metrics --host 0.0.0.0 --port 9478

What workers count is told by each of them, at its RINGONCE_METRICS_PORT.
"""


@click.command(epilog=EXAMPLES)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=9478, show_default=True, help="0: a free one.")
def metrics(*, host: str, port: int) -> None:
    """Tell Prometheus what stands in the outbox, at /metrics.

    One process does for a whole fleet. It reads the views at each scrape, and needs the role outbox_reader;
    with pg_read_all_stats it also tells of transactions that keep dead rows. Ctrl-C ends it.
    """
    settings = load_settings()
    observe.configure(settings)
    with Server(host, port) as server:
        registry = CollectorRegistry()
        registry.register(Gauges(settings.database_url.get_secret_value()))
        server.tell(registry)
        click.echo(f"metrics are at {server.url}. Ctrl-C ends it.")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # in a container nothing else would heed it
        with suppress(KeyboardInterrupt):
            server.serve_forever()

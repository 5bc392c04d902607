"""HTTP for Prometheus: ``GET /metrics``, a thread to a connection, and nothing else."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from worker.errors import SettingsError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["Server"]

PATH: Final = "/metrics"


class _Handler(WSGIRequestHandler):
    timeout = 10
    """Seconds after which a client that says nothing is hung up on."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the library's
        """Say nothing: a scrape is no event."""


class Server(ThreadingMixIn, WSGIServer):
    """Tells what a registry collects, from ``start`` or in ``serve_forever``; it listens at once."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            SettingsError: somebody else does, or there is no such address.
        """
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise SettingsError(
                f"metrics cannot be served at {host}, port {port}: {error.strerror or error}"
            ) from error

    def server_bind(self) -> None:
        """Bind, and leave out what the library does next: ask DNS for this machine's name."""
        TCPServer.server_bind(self)
        host, port = self.socket.getsockname()[:2]
        self.server_name, self.server_port = host, port
        self.setup_environ()

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}{PATH}"

    def tell(self, registry: CollectorRegistry) -> None:
        """Serve what *registry* collects."""
        self.set_app(_only_metrics(make_wsgi_app(registry)))

    def start(self) -> None:
        """Serve in a thread of this process; its forks leave the port alone."""
        os.register_at_fork(after_in_child=self.socket.close)  # or they would keep it when this one dies
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()


def _only_metrics(
    app: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]],
) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == PATH:
            return app(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [f"{PATH} is all there is\n".encode()]

    return answer

"""``ringonce dashboard``: the admin page, as a process of its own."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

import click

from worker import observe
from worker.dashboard import Proxy, serve
from worker.errors import SettingsError
from worker.serving import Place
from worker.settings import load_settings

__all__ = ["dashboard"]

NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?", re.IGNORECASE)
FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

EXAMPLES: Final = """\b
Examples:
  ringonce dashboard
  ringonce dashboard --host 0.0.0.0 --tls-cert page.pem --allowed-host admin.example.com
  ringonce dashboard --proxy-header X-Forwarded-User --proxy-from 127.0.0.1

Whoever logs in is a user of Postgres with a password and the role outbox_admin or outbox_reader:
  create role ada login password '...' in role outbox_admin
"""


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither an address nor a network such as 10.0.0.0/8."
        ) from None


def _name(text: str) -> str:
    if NAME.fullmatch(text) is None:
        raise click.BadParameter(f"{text!r} is no name of a host, such as admin.example.com.")
    return text


@click.command(epilog=EXAMPLES)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="0: a free one.")
@click.option("--tls-cert", type=FILE, help="Certificate (PEM): switches to https.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM), unless the certificate's file holds it.")
@click.option("--proxy-header", metavar="NAME", help="Names who asks, where a proxy in front knows it.")
@click.option(
    "networks",
    "--proxy-from",
    type=_network,
    metavar="ADDRESS",
    multiple=True,
    help="Where that proxy speaks from; may be given again.",
)
@click.option(
    "allowed_hosts",
    "--allowed-host",
    type=_name,
    metavar="NAME",
    multiple=True,
    help="A name by which browsers may call the page, beside any address; may be given again.",
)
def dashboard(
    *,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    proxy_header: str | None,
    networks: tuple[IPv4Network | IPv6Network, ...],
    allowed_hosts: tuple[str, ...],
) -> None:
    """Serve the admin page, for people who have a login of Postgres.

    It shows what stands where and what became of each operation, and settles what is unresolved. Ctrl-C
    ends it.
    """
    if tls_key is not None and tls_cert is None:
        raise SettingsError("--tls-key needs --tls-cert")
    if (proxy_header is None) != (not networks):
        raise SettingsError(
            "--proxy-header and --proxy-from go together: a header that anybody may send proves nothing"
        )
    settings = load_settings()
    observe.configure(settings)
    try:
        serve(
            settings.session_url.get_secret_value(),
            Place(host, port, tls_cert, tls_key),
            proxy=Proxy(proxy_header, networks) if proxy_header else None,
            allowed_hosts=allowed_hosts,
            on_start=lambda address: _announce(address, host, is_open=tls_cert is None and not networks),
        )
    except OSError as error:
        raise SettingsError(
            f"the page cannot be served at {host}, port {port}: {error.strerror or error}"
        ) from error


def _announce(address: str, host: str, *, is_open: bool) -> None:
    click.echo(f"the admin page is at {address}: log in as a user of Postgres. Ctrl-C ends it.")
    if is_open and not _is_loopback(host):
        click.echo(
            "passwords cross the network as they are: use --tls-cert, or a proxy that speaks https", err=True
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""``ringonce receiver``: takes the provider's webhooks, as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from worker import observe
from worker.errors import SettingsError, StoreUnavailable
from worker.receiver import serve
from worker.serving import Place
from worker.settings import load_settings
from worker.store import check_schema

__all__ = ["receiver"]

FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

EXAMPLES: Final = """\b
Examples:
  mkdir secrets && openssl rand -hex 32 > secrets/default
  RINGONCE_WEBHOOK_SECRETS_DIR=secrets ringonce receiver
  ringonce receiver --signature-header X-Provider-Signature --only-signed

Then tell the API, for the account default: https://hooks.example.com/webhooks/default/SECRET
"""


@click.command(epilog=EXAMPLES)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8091, show_default=True, help="0: a free one.")
@click.option(
    "--signature-header",
    metavar="NAME",
    default="X-Webhook-Signature",
    show_default=True,
    help="Holds the HMAC-SHA256 of the body, where it is signed.",
)
@click.option("--only-signed", is_flag=True, help="Take nothing that is not signed.")
@click.option("--tls-cert", type=FILE, help="Certificate (PEM): switches to https.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM), unless the certificate's file holds it.")
def receiver(
    *,
    host: str,
    port: int,
    signature_header: str,
    only_signed: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Take the provider's webhooks, and keep what they tell.

    At /webhooks/ACCOUNT, from whoever knows a secret of the account (a line of its file in
    RINGONCE_WEBHOOK_SECRETS_DIR): in the path behind it, in X-Webhook-Secret, as a bearer, or by signing the
    body. Needs the role outbox_receiver. Ctrl-C ends it.
    """
    if tls_key is not None and tls_cert is None:
        raise SettingsError("--tls-key needs --tls-cert")
    settings = load_settings()
    if settings.webhook_secrets_dir is None:
        raise SettingsError(
            "RINGONCE_WEBHOOK_SECRETS_DIR is not set: without a secret anybody could say that a phone rang"
        )
    observe.configure(settings)
    url = settings.database_url.get_secret_value()
    try:
        check_schema(url, role="outbox_receiver")
    except StoreUnavailable as error:  # it comes back, and so do the senders
        observe.emit(observe.Event.DISCONNECTED, who="receiver", error=str(error))
    try:
        serve(
            url,
            settings.webhook_secrets_dir,
            Place(host, port, tls_cert, tls_key),
            signature_header=signature_header,
            only_signed=only_signed,
            on_start=lambda address: click.echo(
                f"webhooks are taken at {address}/ACCOUNT/SECRET. Ctrl-C ends it."
            ),
        )
    except OSError as error:
        raise SettingsError(
            f"webhooks cannot be taken at {host}, port {port}: {error.strerror or error}"
        ) from error

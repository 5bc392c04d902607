"""``ringonce sandbox``: the imitation API, as a process of its own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import click

from worker.errors import SettingsError
from worker.sandbox import (
    ClockFrom,
    Concurrent,
    Credential,
    Envelope,
    Fault,
    Faults,
    Gate,
    SandboxSettings,
    Webhooks,
    serve,
)

__all__ = ["sandbox"]


def _fault(text: str) -> tuple[str, str]:
    return _pair(text, "FAULT=CHANCE")


def _credential(text: str) -> tuple[str, str]:
    return _pair(text, "APP_ID=APP_KEY", shown="this")  # it may hold the key all the same


def _pair(text: str, form: str, *, shown: str | None = None) -> tuple[str, str]:
    """What stands before and behind the first ``=``: keys may hold others."""
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise click.BadParameter(f"{shown or repr(text)} is not {form}.")
    return name, value


def _latency(text: str) -> tuple[float, float]:
    """The least and the most of ``low..high``, or of one number."""
    low, _, high = text.partition("..")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither seconds nor low..high.") from None


def _choice(words: type[StrEnum]) -> click.Choice[str]:
    """One of the values of *words*; given the words themselves, click would ask for their names in Python."""
    return click.Choice([word.value for word in words])


SECONDS: Final = click.FloatRange(min=0)
CHANCE: Final = click.FloatRange(0, 1)
FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
SHOWN_FAULTS: Final = ", ".join(fault for fault in Fault if fault is not Fault.ANSWER)

WEBHOOKS: Final = (
    "url", "secret", "signed", "duplicates", "reordering", "loss", "silence", "failures"
)  # fmt: skip
"""The options of webhooks, behind ``--webhook-``."""

EXAMPLES: Final = f"""\b
Examples:
  ringonce sandbox --port 8080
  ringonce sandbox --fault drop=0.1 --fault 429=0.05 --latency 0.05..0.3 --seed 7
  ringonce sandbox --webhook-url http://127.0.0.1:8091/webhooks/try/SECRET --webhook-loss 0.1
  ringonce sandbox --credential my-app-id=my-app-key --key-ttl 600

Faults: {SHOWN_FAULTS}. GET /_sandbox tells how to steer it while it runs, and what it has executed.
"""


@click.command(epilog=EXAMPLES)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same faults.")
@click.option(
    "faults",
    "--fault",
    type=_fault,
    metavar="FAULT=CHANCE",
    multiple=True,
    help="A chance from 0 to 1.",
)
@click.option("--latency", type=_latency, metavar="SECONDS|LOW..HIGH", help="How long an execution takes.")
@click.option("--retry-after", metavar="TEXT", help="Sent with 429 and 503, as it stands; else 1.")
@click.option("--refuse-seconds", type=SECONDS, help="How long the fault refuse lasts.")
@click.option("--hang-seconds", type=SECONDS, help="How long the fault hang lasts.")
@click.option("--drip-seconds", type=SECONDS, help="From byte to byte of the fault slow_body.")
@click.option("--key-ttl", "key_ttl_seconds", type=SECONDS, help="Seconds that a key lives; else a day.")
@click.option(
    "credentials",
    "--credential",
    type=_credential,
    metavar="APP_ID=APP_KEY",
    multiple=True,
    help="Who is let in; else sandbox=sandbox.",
)
@click.option("--errors-cached/--no-errors-cached", default=None, help="Keys stand for error answers too.")
@click.option("--concurrent", type=_choice(Concurrent), help="A key whose first request still runs.")
@click.option("--clock-from", type=_choice(ClockFrom), help="From when a key's age counts.")
@click.option("--gate", type=_choice(Gate), help="When 401, 403, 429 and 503 are decided.")
@click.option("--envelope", type=_choice(Envelope), help="Shape of error bodies.")
@click.option("--replay-header", metavar="NAME", help="A header that marks replayed answers.")
@click.option("--webhook-url", metavar="URL", help="Who is told what was executed.")
@click.option("--webhook-secret", metavar="TEXT|@FILE", help="Shown to it, or --webhook-signed with it.")
@click.option("--webhook-signed/--no-webhook-signed", default=None, help="Sign the body instead.")
@click.option("--webhook-delay", type=_latency, metavar="SECONDS|LOW..HIGH", help="How late it is told.")
@click.option("--webhook-duplicates", type=CHANCE, help="Chance that an event is sent twice.")
@click.option("--webhook-reordering", type=CHANCE, help="Chance of any order.")
@click.option("--webhook-loss", type=CHANCE, help="Chance that an event is never sent.")
@click.option("--webhook-silence", type=CHANCE, help="Chance that nothing is said of an execution.")
@click.option("--webhook-failures", type=CHANCE, help="Chance that a recipient is not reached.")
@click.option("--tls-cert", type=FILE, help="Certificate (PEM): switches to https.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM), unless the certificate's file holds it.")
def sandbox(*, host: str, port: int, tls_cert: Path | None, tls_key: Path | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """Run an imitation of the API, to test against: nobody's phone rings.

    It keeps the documented promise about idempotency keys to the letter, breaks connections as you ask,
    and can prove what it has executed. Ctrl-C ends it.
    """
    if tls_key is not None and tls_cert is None:
        raise SettingsError("--tls-key needs --tls-cert")
    settings = _settings(**options)
    try:
        serve(host, port, settings, tls_cert, tls_key, on_start=lambda url: _announce(url, settings))
    except OSError as error:
        raise SettingsError(
            f"the sandbox cannot serve {host}, port {port}: {error.strerror or error}"
        ) from error


def _settings(
    *,
    faults: tuple[tuple[str, str], ...],
    credentials: tuple[tuple[str, str], ...],
    latency: tuple[float, float] | None,
    **switches: Any,  # noqa: ANN401 - click's
) -> SandboxSettings:
    """What the options say; the sandbox's own defaults for the rest.

    Raises:
        SettingsError: a value is not usable.
    """
    told = {name: switches.pop(f"webhook_{name}") for name in WEBHOOKS}
    told["secret"] = _secret(told["secret"])
    told["delay_seconds"] = switches.pop("webhook_delay")
    switches["webhooks"] = Webhooks(**_given(told))
    durations = {name: switches.pop(name) for name in ("refuse_seconds", "hang_seconds", "drip_seconds")}
    hardness = {**durations, "retry_after": switches.pop("retry_after"), "latency_seconds": latency}
    if credentials:
        switches["credentials"] = {app_id: Credential(app_key) for app_id, app_key in credentials}
    return SandboxSettings(faults=Faults(_chances(faults), **_given(hardness)), **_given(switches))


def _secret(told: str | None) -> str | None:
    if told is None or not told.startswith("@"):
        return told
    try:
        return Path(told[1:]).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"the secret of webhooks cannot be read: {error}") from error


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _chances(faults: tuple[tuple[str, str], ...]) -> dict[str, float]:
    try:
        return {name: float(chance) for name, chance in faults}
    except ValueError as error:
        raise SettingsError(f"a fault's chance is a number from 0 to 1: {error}") from error


def _announce(url: str, settings: SandboxSettings) -> None:
    click.echo(f"the sandbox answers at {url}, to the APP IDs {', '.join(settings.credentials)}")
    click.echo(f"curl {url}/_sandbox tells how to steer it. Ctrl-C ends it.")

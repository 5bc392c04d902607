"""``ringonce account set`` and ``ringonce account list``."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Final

import click

from worker.cli.database import connected
from worker.cli.printing import as_json, moment, print_json, print_rows
from worker.errors import UnknownAccount
from worker.plain import discreet
from worker.store import administration, views

__all__ = ["account", "stopped"]


def _count(text: str) -> float:
    return _limit(text, int)


def _rate(text: str) -> float:
    return _limit(text, float)


def _limit(text: str, kind: type[int | float]) -> float:
    """A number above 0, or ``NO_LIMIT`` for ``none``."""
    if text == "none":
        return administration.NO_LIMIT
    try:
        number = kind(text)
    except ValueError:
        number = 0
    if not 0 < number < math.inf:
        raise click.BadParameter(f"{text!r} is neither a number above 0 nor 'none'.")
    return number


EXAMPLES: Final = """\b
Examples:
  ringonce account set default --app-id 5f2c0a7e
  ringonce account set default --rate 20 --burst 40 --max-in-flight 200
  ringonce account set default --rate none
  ringonce account list

The APP KEY never stands in the database: put it into RINGONCE_APP_KEY_DEFAULT, or into a file called
default in RINGONCE_SECRETS_DIR.
"""


@click.group(epilog=EXAMPLES)
def account() -> None:
    """Add, change and list accounts."""


@account.command("set", epilog=EXAMPLES)
@click.argument("name")
@click.option("--app-id", metavar="TEXT", help="The API's name for you. Needed once; then it is frozen.")
@click.option("--base-url", metavar="URL", help="Where the API lives, without a slash at the end.")
@click.option("--max-in-flight", type=_count, metavar="COUNT|none", help="Most calls at once, fleet-wide.")
@click.option("--rate", type=_rate, metavar="RATE|none", help="Most calls a second, fleet-wide.")
@click.option("--burst", type=_count, metavar="COUNT|none", help="How many may go at once after a pause.")
@click.option(
    "--breaker-after",
    type=_count,
    metavar="COUNT|none",
    help="Ambiguous answers in a row, after which one operation goes at a time.",
)
@click.option(
    "--allow-guessable-keys/--no-allow-guessable-keys",
    default=None,
    help="Accept keys like msg-1, which are easily reused by accident.",
)
@as_json
def set_(*, name: str, app_id: str | None, rate: float | None, as_json: bool, **changes: Any) -> None:  # noqa: ANN401 - click's
    """Add the account NAME, or change what is given of it."""
    changes |= {"app_id": app_id, "rate_per_second": rate}
    with connected(needs="the role outbox_admin") as conn, conn.transaction():
        added = app_id is not None and administration.add_account(conn, name, app_id)
        before = views.accounts(conn, name)
        try:
            administration.change_account(conn, name, **changes)
        except UnknownAccount as error:
            raise UnknownAccount(f"{error} yet: give its --app-id") from error
        account = discreet(views.accounts(conn, name)[0])
    changed = any(getattr(before[0], each) != getattr(account, each) for each in changes)
    if as_json:
        print_json({"added": added, "changed": changed, **asdict(account)})
    elif added or changed:
        click.echo(f"account {name} {'added' if added else 'changed'}")
    else:
        click.echo(f"account {name} is that already: nothing was changed")


@account.command("list", epilog=EXAMPLES)
@as_json
def list_(*, as_json: bool) -> None:
    """List the accounts: their limits, and what stops them.

    The breaker is told by the ambiguous attempts in a row: how many there are, of how many that open it.
    """
    with connected(needs="the role outbox_reader") as conn:
        found = discreet(views.accounts(conn))
    limits = ["in flight", "rate", "burst", "breaker", "guessable keys"]
    print_rows(found, ["account", "APP ID", "base URL", *limits, "stopped"], _row, as_json=as_json)


def _row(account: views.Account) -> list[object]:
    return [
        account.name,
        account.app_id,
        account.base_url,
        account.max_in_flight or "any",
        f"{account.rate_per_second:g}/s" if account.rate_per_second else "any",
        account.burst,
        f"{account.doubt_run} of {account.breaker_after}" if account.breaker_after else "none",
        "allowed" if account.allow_guessable_keys else "refused",
        stopped(account),
    ]


def stopped(account: views.Account) -> str:
    """What stops *account*, in words; nothing, if nothing does."""
    return "; ".join(_words(each) for each in account.stops)


def _words(stop: views.Stop) -> str:
    what = stop.how if stop.endpoint is None else f"{stop.endpoint} {stop.how}"
    if stop.until is None:
        return f"{what} since {moment(stop.since)}: {stop.reason}"
    return f"{what} until {moment(stop.until)}, then one operation at a time: {stop.reason}"

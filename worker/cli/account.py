"""``ringonce account set`` and ``ringonce account list``."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Final

import click
from psycopg import Connection
from psycopg.rows import TupleRow

from worker.cli.database import connected
from worker.cli.printing import as_json, moment, print_json, print_table
from worker.errors import UnknownAccount
from worker.store import administration, browse

__all__ = ["account"]


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
        before = browse.accounts(conn, name)
        try:
            administration.change_account(conn, name, **changes)
        except UnknownAccount as error:
            raise UnknownAccount(f"{error} yet: give its --app-id") from error
        account = browse.accounts(conn, name)[0]
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
    """List the accounts: their limits, and what stops them."""
    with connected(needs="the role outbox_reader") as conn:
        rows = _accounts(conn)
    if as_json:
        print_json([asdict(account) | {"throttles": throttles} for account, throttles in rows])
        return
    print_table(
        ["account", "APP ID", "base URL", "in flight", "rate", "burst", "guessable keys", "stopped"],
        [_row(account, throttles) for account, throttles in rows],
    )


def _accounts(conn: Connection[TupleRow]) -> list[tuple[browse.Account, list[browse.Throttle]]]:
    throttles = browse.throttles(conn)
    return [
        (account, [each for each in throttles if each.account == account.name])
        for account in browse.accounts(conn)
    ]


def _row(account: browse.Account, throttles: list[browse.Throttle]) -> list[object]:
    return [
        account.name,
        account.app_id,
        account.base_url,
        account.max_in_flight or "any",
        f"{account.rate_per_second:g}/s" if account.rate_per_second else "any",
        account.burst,
        "allowed" if account.allow_guessable_keys else "refused",
        "; ".join(_stops(account, throttles)),
    ]


def _stops(account: browse.Account, throttles: list[browse.Throttle]) -> list[str]:
    stops = []
    if account.paused_at is not None:
        stops.append(f"paused since {moment(account.paused_at)}: {account.paused_reason}")
    if account.probe_at is not None:
        stops.append(f"in doubt: one operation at a time, the next at {moment(account.probe_at)}")
    if account.blocked_until is not None:
        until = moment(account.blocked_until)
        stops.append(f"blocked until {until}, then one operation at a time: {account.blocked_reason}")
    stops += [
        f"{each.endpoint} blocked until {moment(each.blocked_until)}, then one operation at a time: "
        f"{each.blocked_reason}"
        for each in throttles
    ]
    return stops

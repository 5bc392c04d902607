"""The options by which operations are chosen: the same for ``list`` and for what is done to many at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar

import click

from worker.cli.parameters import zoned_time
from worker.operation import State
from worker.store.listing import Filter

__all__ = ["filters"]

Command = TypeVar("Command", bound=Callable[..., None])

_OPTIONS: Final = (
    click.option(
        "states",
        "--state",
        type=click.Choice([state.value for state in State]),
        multiple=True,
        help="In this state, or one of these.",
    ),
    click.option("--account", metavar="TEXT", help="Of this account."),
    click.option("--endpoint", metavar="TEXT", help="Of this endpoint."),
    click.option("--lane", metavar="TEXT", help="In this lane."),
    click.option("--key", metavar="TEXT", help="With this idempotency key."),
    click.option("--provider-id", metavar="TEXT", help="With this id of the API's."),
    click.option("--created-since", type=zoned_time, metavar="TIME", help="Enqueued then or later."),
    click.option("--created-until", type=zoned_time, metavar="TIME", help="Enqueued before that."),
    click.option("--finished-since", type=zoned_time, metavar="TIME", help="Final then or later."),
    click.option("--finished-until", type=zoned_time, metavar="TIME", help="Final before that."),
    click.option("--in-doubt", is_flag=True, help="Not final, and may have been executed."),
    click.option("--held", is_flag=True, help="Under a legal hold, or with their account or lane."),
    click.option("--error", metavar="TEXT", help="With this in the last error, in whatever capitals."),
)


def filters(command: Command) -> Command:
    """Give *command* these options; it gets what they say as *wanted*, a ``Filter``."""

    @wraps(command)
    def chosen(**given: Any) -> None:  # noqa: ANN401 - click's
        conditions = {name: given.pop(name) for name in Filter.__dataclass_fields__}
        conditions["states"] = tuple(State(each) for each in conditions["states"])
        command(wanted=Filter(**conditions), **given)

    for option in reversed(_OPTIONS):
        chosen = option(chosen)
    return chosen  # type: ignore[return-value]  # wraps the same command

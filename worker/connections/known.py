"""Which kind a connection is of, told by the modules of its classes."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from importlib import import_module
from typing import Final, NoReturn

from worker.connections.kinds import AsyncListener, Kind, Listener

__all__ = ["alistener_below", "kind_of", "listener_below"]

_DRIVERS: Final = ("asyncpg", "django", "psycopg", "psycopg2", "sqlalchemy.ext.asyncio", "sqlalchemy")
"""Packages whose connections are known; one that lies in another comes first."""
_MODULES: Final = {"sqlalchemy.ext.asyncio": "sqlalchemy_asyncio"}
"""Ours for a package, where it has another name."""


def kind_of(conn: object) -> Kind | None:
    """What is known of a connection; its class may be the app's own, derived from a library's."""
    held = conn.__class__  # which a proxy of some library may answer for what it stands for
    for each in held.__mro__:
        package = next((name for name in _DRIVERS if f"{each.__module__}.".startswith(f"{name}.")), None)
        if package is not None:
            module = import_module(f"worker.connections.{_MODULES.get(package, package)}")
            kinds: tuple[Kind, ...] = module.KINDS
            return next((kind for kind in kinds if issubclass(held, kind.held)), None)
    return None


def listener_below(driver: object) -> AbstractContextManager[Listener]:
    """The listener that a driver's connection makes, which lies below the one that an app has.

    Raises:
        TypeError: it is of a driver that makes none; which do.
    """
    kind = kind_of(driver)
    if kind is None or kind.listener is None:
        _refuse(driver, "psycopg or psycopg2")
    return kind.listener(driver)


def alistener_below(driver: object) -> AbstractAsyncContextManager[AsyncListener]:
    """``listener_below`` for what is used with ``await``.

    Raises:
        TypeError: it is of a driver that makes none; which do.
    """
    kind = kind_of(driver)
    if kind is None or kind.alistener is None:
        _refuse(driver, "asyncpg or psycopg")
    return kind.alistener(driver)


def _refuse(driver: object, known: str) -> NoReturn:
    held = type(driver)
    raise TypeError(f"a wait cannot listen on a {held.__module__}.{held.__qualname__}: connect with {known}")

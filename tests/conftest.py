"""The fixtures of all tests; ``postgres.py`` says what each database costs."""

from __future__ import annotations

from tests.listening import said
from tests.postgres import aconn, aconnect, conn, connect, database, server, template

pytest_plugins = ["pytester"]  # runs pytest inside of tests, for the plugin that apps use

__all__ = ["aconn", "aconnect", "conn", "connect", "database", "said", "server", "template"]

"""The fixtures of all tests; ``postgres.py`` says what each database costs."""

from __future__ import annotations

from tests.postgres import aconn, aconnect, conn, connect, database, server, template

__all__ = ["aconn", "aconnect", "conn", "connect", "database", "server", "template"]

"""Inner runs of pytest, as an app's tests would be run: each in a process and a folder of its own."""

from __future__ import annotations

from typing import Protocol

import pytest

from tests.postgres import Database, Server


class RunTests(Protocol):
    """Run *source* as the tests of an app, with *options* of pytest; its fixtures use our server."""

    def __call__(self, source: str, *options: str, conftest: str = "", **settings: str) -> pytest.RunResult:
        """*settings* are those of its ini file, in the place of ours."""


@pytest.fixture
def run_tests(pytester: pytest.Pytester, database: Database) -> RunTests:
    """Every warning of an inner run is an error, and it has no more time than we have patience."""

    def run(source: str, *options: str, conftest: str = "", **settings: str) -> pytest.RunResult:
        usual = {
            "ringonce_postgres": database.url,
            "asyncio_default_fixture_loop_scope": "function",
            "filterwarnings": "error",
        }
        lines = [f"{name} = {value}" for name, value in (usual | settings).items() if value]
        pytester.makeini("\n".join(["[pytest]", *lines]))
        pytester.makepyfile(test_app=source)
        if conftest:
            pytester.makeconftest(conftest)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options, timeout=100)

    return run


@pytest.fixture(scope="session")
def ringonce_postgres(server: Server) -> str:
    """Our own tests use the plugin, too."""
    return server._url_of("postgres")

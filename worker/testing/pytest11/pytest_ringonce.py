"""The pytest plugin of ringonce: its fixtures, and nothing else until one of them is used.

It is no part of the package ``worker`` although it lies in its folder: what is in there would bring psycopg
into every run, and could not be found at all where an app has a ``worker.py`` of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from worker.sandbox import Sandbox
    from worker.testing import Ringonce

SHARED = pytest.StashKey[Path]()
"""The folder of the Postgres that all processes of a distributed run share, at the one that distributes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make the settings known."""
    parser.addini(
        "ringonce_postgres",
        "URL of a Postgres where tests may make databases; without it one is started from a wheel",
        default="",
    )
    parser.addini(
        "ringonce_database",
        "URL of your app's own test database, whose outbox is emptied before each test; {worker} stands for "
        "the name that pytest-xdist gives a process",
        default="",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - of pytest-xdist, which may not be installed
    """Tell a process of a distributed run where the Postgres is that they share."""
    folder = Path(tempfile.gettempdir(), f"ringonce-{node.workerinput['testrunuid']}")
    node.config.stash[SHARED] = folder
    node.workerinput["ringonce_folder"] = str(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what they shared. A server that outlived them, since they were killed, ends itself then."""
    if SHARED in config.stash:
        shutil.rmtree(config.stash[SHARED], ignore_errors=True)


@pytest.fixture(scope="session")
def ringonce_postgres(pytestconfig: pytest.Config) -> Iterator[str]:
    """URL of a Postgres where databases may be made: the setting's, else one for this run, from a wheel."""
    if given := str(pytestconfig.getini("ringonce_postgres")):
        yield given
        return
    databases = _imported("databases")
    shared = _input(pytestconfig).get("ringonce_folder")
    with databases.embedded(shared and Path(shared)) as url:
        yield url


@pytest.fixture(scope="session")
def ringonce_template(ringonce_postgres: str) -> Iterator[str]:
    """URL of a database that holds the outbox, and of which each test gets a copy.

    Override it, asking for it by its own name, to put your tables there; and disconnect.
    """
    with _imported("databases").template(ringonce_postgres) as url:
        yield url


@pytest.fixture
def ringonce_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of the test's database: a copy of the template, or that of the setting, shared by all tests.

    Override it to give another one of your own; its name must have the word "test" in it.
    """
    if own := str(request.config.getini("ringonce_database")):
        yield _of_this_process(own, request.config)
        return
    server = request.getfixturevalue("ringonce_postgres")
    template = request.getfixturevalue("ringonce_template")
    with _imported("databases").copy(server, template) as url:
        yield url


@pytest.fixture(scope="session")
def _ringonce_api() -> Iterator[Sandbox]:
    _imported("outbox")  # says what is missing
    from worker.sandbox import Sandbox  # noqa: PLC0415

    with Sandbox() as api:
        yield api


@pytest.fixture
def ringonce_sandbox(_ringonce_api: Sandbox) -> Iterator[Sandbox]:
    """The imitation of the API, as if it had just been started."""
    _ringonce_api.renew()
    yield _ringonce_api
    _ringonce_api.hurry()


@pytest.fixture
def ringonce_outbox(ringonce_database: str, ringonce_sandbox: Sandbox) -> str:
    """URL of the test's database, with an empty outbox whose accounts ("default" is one) call the sandbox."""
    _imported("outbox").prepare(ringonce_database, ringonce_sandbox)
    return ringonce_database


@pytest.fixture
def ringonce(ringonce_outbox: str, ringonce_sandbox: Sandbox) -> Ringonce:
    """The test's outbox: what would be sent, "deliver now", what was sent (``worker.testing.Ringonce``)."""
    kit: Ringonce = _imported("kit").Ringonce(ringonce_outbox, ringonce_sandbox)
    return kit


def _imported(name: str) -> Any:  # noqa: ANN401 - a module
    """A module of ``worker.testing``, imported when it is needed."""
    import importlib  # noqa: PLC0415

    try:
        return importlib.import_module(f"worker.testing.{name}")
    except ModuleNotFoundError as error:
        pytest.fail(
            f"{error}: the fixtures of ringonce need pip install 'ringonce[testing]', and no worker.py of "
            "your own that hides the package",
            pytrace=False,
        )


def _input(config: pytest.Config) -> dict[str, Any]:
    """What a process of a distributed run was told; nothing, if the run is not distributed."""
    told: dict[str, Any] = getattr(config, "workerinput", {})
    return told


def _of_this_process(url: str, config: pytest.Config) -> str:
    worker = _input(config).get("workerid", "")
    if worker and "{worker}" not in url:
        raise pytest.UsageError(
            "processes of pytest-xdist cannot share one database: put {worker} into ringonce_database"
        )
    return url.replace("{worker}", worker or "main")

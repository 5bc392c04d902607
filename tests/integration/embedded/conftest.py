"""Folders and servers for the tests of the embedded Postgres."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.embedded.servers import (
    copy,
)
from tests.postgres import folder_for_clusters
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for a data folder. (Root's own tmp_path is closed to the user whom it starts Postgres as.)"""
    with tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def disk() -> Iterator[Path]:
    """The same on a disk: of memory, nothing may be executed on some machines."""
    with tempfile.TemporaryDirectory(prefix="ringonce-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="package")
def fresh() -> Iterator[Path]:
    """A data folder that has been started once: copying it takes a tenth of the time of making one."""
    with tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as name:
        with EmbeddedPostgres(Path(name), settings=FAST_AND_UNSAFE):
            pass
        yield Path(name)


@pytest.fixture
def server(folder: Path, fresh: Path) -> Iterator[EmbeddedPostgres]:
    copy(fresh, folder / "data")
    with EmbeddedPostgres(folder / "data", settings=FAST_AND_UNSAFE) as server:
        yield server


@pytest.fixture(scope="package")
def durable_server() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="ringonce-") as name, EmbeddedPostgres(Path(name)) as server:
        yield server

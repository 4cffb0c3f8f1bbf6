"""Settings and shared servers for every test. No test may fail because the machine is slow.

The real Postgres and NATS start when the first test of a session (of a worker, with xdist) asks for
them, and stop at its end. Tests that kill servers start their own.
"""

import gc
import uuid
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from hypothesis import settings
from tests.properties import FULL
from tests.servers import nats_in, postgres_in, serving

settings.load_profile(FULL)


def pytest_collection_finish() -> None:
    """What was imported stays: spare the collector the walk over it, in every test anew."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Postgres for the session; its database `penstock` is nobody's: use database_url."""
    with serving(postgres_in(tmp_path_factory.mktemp("postgres"))) as running:
        yield running.url


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real NATS for the session. Tests share its streams, so each uses its own subjects."""
    with serving(nats_in(tmp_path_factory.mktemp("nats"))) as running:
        yield running.url


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """An empty database of the test's own on the session's real Postgres."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield postgres_url.replace("/penstock?", f"/{name}?")
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()

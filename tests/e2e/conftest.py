"""One market for the tests that only use it; tests that break things start their own."""

from collections.abc import Iterator

import pytest
from tests.e2e.market import RunningMarket, running_market


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMarket]:
    """The whole market as a newcomer starts it."""
    with running_market(tmp_path_factory.mktemp("market") / "home") as running:
        yield running

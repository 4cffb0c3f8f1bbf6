"""The `world` fixture: each wire test runs on every network there is."""

from typing import cast

import pytest
from tests.kit.world import WORLDS, MemoryWorld, World


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[cast("str", request.param)]()


@pytest.fixture
def virtual() -> MemoryWorld:
    """Only virtual time: for deadlines, which real time would make slow and uncertain."""
    return MemoryWorld()

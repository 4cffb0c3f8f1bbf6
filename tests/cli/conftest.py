"""Stations on loopback and a home that runs them, for every command."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.stations import Stations, running_home, serving

from penstock.cli.home import Home


@pytest.fixture
def stations() -> Iterator[Stations]:
    with serving(Stations()) as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, stations: Stations) -> Iterator[Home]:
    with running_home(tmp_path / "home", stations) as made:
        yield made

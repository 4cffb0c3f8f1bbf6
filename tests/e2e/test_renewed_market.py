"""A market with several gateway processes, renewed while it is asked: nobody notices."""

from collections.abc import Iterator

import pytest
from tests.e2e.drill import Drill, summary
from tests.e2e.load import Load
from tests.e2e.market import RunningMarket, running_market


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMarket]:
    """One of its own: others count on the number of processes."""
    home = tmp_path_factory.mktemp("renewed") / "home"
    with running_market(home, "--gateway-workers", "2") as running:
        yield running


@pytest.mark.slow
def test_a_renewal_by_command_costs_no_request_and_the_books_add_up(market: RunningMarket) -> None:
    """Slow: real processes."""
    drill = Drill(market)
    drill.at_rest([])
    # Half of what the miners have room for: what is refused would be the renewal's doing.
    with Load(market.gateway, market.api_key, parallel=4) as load:
        market.until(
            lambda: load.answered() >= 4 and load.streaming >= 1, "the load is in full swing"
        )
        assert market.told("restart", "gateway") == {"renewed": True, "station": "gateway"}
        after = len(load.told)
        market.until(lambda: load.answered(after) >= 4, "all goes on as before")
    told = [*load.told, drill.sign()]
    assert [one.error for one in told if one.error] == [], summary(told)
    drill.check(drill.at_rest(told))
    status = {one["name"]: one["restarts"] for one in market.status()["stations"]}
    assert status["gateway"] == 0, "the process that keeps the port stayed"

"""A gateway tells which market it serves, so that its URL is all a miner needs."""

import msgspec
import pytest

from penstock.gateway.market_page import MarketPage
from penstock.kit.clock import OffsetClock, SystemClock
from penstock.kit.wire.http import Request


@pytest.mark.parametrize("offset_ms", [0, 5_000])
async def test_it_names_market_operator_network_and_time(offset_ms: int) -> None:
    clock = OffsetClock(SystemClock(), offset_ms)
    page = MarketPage("https://market.example", "ed25519:" + "a" * 64, "local", clock)
    before = clock.now_ms()
    answer = await page.page(Request("GET", "/market"))
    said = msgspec.json.decode(answer.body)
    assert answer.status == 200
    assert said.pop("now_ms") >= before
    assert said == {
        "market_url": "https://market.example",
        "operator": "ed25519:" + "a" * 64,
        "network": "local",
    }

"""Which market this gateway serves: what a miner that knows only the gateway's URL starts from.

What it says is only where to look: the charter that the market shows is signed by its operator.
"""

from dataclasses import dataclass

from penstock.kit.ports import Clock
from penstock.kit.wire.http import Request, Response, json_response

MARKET_PATH = "/market"


@dataclass(frozen=True, slots=True)
class MarketPage:
    """`market_url` as miners reach it. `operator` is the identity that signed the charter."""

    market_url: str
    operator: str
    network: str
    clock: Clock

    async def page(self, _: Request) -> Response:
        """`GET /market`; `now_ms` lets others see how far their clocks are off."""
        return json_response(
            200,
            {
                "market_url": self.market_url,
                "operator": self.operator,
                "network": self.network,
                "now_ms": self.clock.now_ms(),
            },
        )

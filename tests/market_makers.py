"""A market in memory on virtual time, and the signed words its callers send."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.makers import MANIFEST, OWNER, PRICE, ToyKey, toy_verify

from penstock.kit.metrics import Metrics
from penstock.market.service import Market, Rules
from penstock.sim.bus import MemoryBus
from penstock.sim.loop import VirtualClock, VirtualLoop, run
from penstock.sim.stores_market import MemoryMarketStore
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Manifest, Offer, Tier, chute_id
from penstock.spec.params import LOCAL, Params

MARKET_KEY = ToyKey("market")
ANNA, BERT = ToyKey("anna"), ToyKey("bert")
CHUTE = chute_id(MANIFEST)
BEAT_MS = LOCAL.beat_ms
EPOCH_MS = LOCAL.epoch_ms


def offer_of(key: ToyKey = ANNA, **changes: Any) -> Offer:
    """An offer of one of this key's instances, issued at 0."""
    offer = Offer(
        instance=f"{key.name}-1",
        miner=key.identity,
        chute=CHUTE,
        endpoint="http://127.0.0.1:1",
        price=PRICE,
        room=4,
        hardware="cpu",
        device=f"device-of-{key.name}",
        tier=Tier.OPEN,
        issued_ms=0,
        valid_until_ms=LOCAL.offer_ttl_ms,
        seq=1,
    )
    return replace(offer, **changes)


def manifest_of(owner: ToyKey = OWNER, **changes: Any) -> Signed:
    return sign("manifest", replace(MANIFEST, owner=owner.identity, **changes), owner)


def chute_of(signed: Signed) -> str:
    """The chute that this signed manifest defines."""
    return chute_id(from_plain(Manifest, signed.body))


@dataclass
class World:
    """A market and everything around it, on the running virtual loop."""

    loop: VirtualLoop
    bus: MemoryBus = field(default_factory=MemoryBus)
    store: MemoryMarketStore = field(default_factory=MemoryMarketStore)
    rules: Rules = field(default_factory=Rules)
    params: Params = LOCAL

    def __post_init__(self) -> None:
        self.clock = VirtualClock(self.loop)
        self.market = self.new_market()
        self._seq = 0

    def new_market(self) -> Market:
        return Market(
            clock=self.clock,
            bus=self.bus,
            store=self.store,
            key=MARKET_KEY,
            verify=toy_verify,
            params=self.params,
            rules=self.rules,
            metrics=Metrics(),
        )

    def offer(self, key: ToyKey = ANNA, **changes: Any) -> Signed:
        """A present offer with the next seq."""
        self._seq += 1
        now_ms = self.clock.now_ms()
        fresh = offer_of(
            key,
            issued_ms=now_ms,
            valid_until_ms=now_ms + self.params.offer_ttl_ms,
            seq=self._seq,
        )
        return sign("offer", replace(fresh, **changes), key)

    async def beat_for(self, beats: int, *keys: ToyKey, **changes: Any) -> None:
        """These miners renew their offers every beat; the market beats with them."""
        for _ in range(beats):
            for key in keys:
                await self.market.offer(self.offer(key, **changes), delegation=None)
            await self.market.beat()
            await asyncio.sleep(BEAT_MS / 1000)

    def board(self) -> dict[str, Any]:
        """What the board holds now."""
        return {key: json.loads(value) for key, value in self.bus._board.items()}

    def logged(self) -> list[tuple[str, Any]]:
        """(entry id, body) of everything published for the log."""
        said = [json.loads(event.data) for event in self.bus._events]
        return [(one["id"], one["body"]["body"]) for one in said]

    async def count_demand(self, **totals: Any) -> None:
        """What a gateway puts on the board."""
        value = {"chute": CHUTE, "requests": 0, "refused": 0, "busy_us": 0, **totals}
        key = f"demand.gateway.{CHUTE.removeprefix('sha256:')}"
        await self.bus.put(key, json.dumps(value).encode())


def in_world(
    story: Callable[[World], Awaitable[None]], *, rules: Rules | None = None, opened: bool = True
) -> None:
    """Run a story on virtual time; the market is open and knows MANIFEST unless told otherwise."""
    loop = VirtualLoop()

    async def main() -> None:
        world = World(loop, rules=Rules() if rules is None else rules)
        if opened:
            await world.market.open()
            await world.market.publish(manifest_of())
        await story(world)

    run(main(), loop)


def plain(signed: Signed) -> Any:
    return to_plain(signed)

"""Payouts are read from what the ledger publishes: each epoch once, and nothing else is believed."""

import asyncio
import base64
from typing import Any

import msgspec
import pytest
from tests.makers import ToyKey

from penstock.kit.clock import SystemClock
from penstock.kit.wire.client import Reply
from penstock.miner.earnings import Costs, Earnings
from penstock.miner.errors import PeerDown
from penstock.miner.payouts import Payouts, payout_in
from penstock.miner.timing import MarketTime
from penstock.sim.disk import MemoryFiles
from penstock.spec.canon import to_plain
from penstock.spec.entries import Entry, EntryKind, leaf_bytes
from penstock.spec.keys import sign
from penstock.spec.messages import Payout, Settlement, Weight
from penstock.spec.params import LOCAL

ME, OTHER = ToyKey("me").identity, ToyKey("other").identity
LEDGER = ToyKey("ledger")


def outcome(epoch: int, **paid: int) -> dict[str, Any]:
    names = {"me": ME, "other": OTHER}
    settlement = Settlement(
        epoch=epoch,
        reports=(),
        weights=(Weight(ME, 1),),
        pool_nano=sum(paid.values()),
        payouts=tuple(Payout(names[name], amount) for name, amount in paid.items()),
        reserve_nano=0,
    )
    body = to_plain(sign("settlement", settlement, LEDGER))
    leaf = leaf_bytes(Entry(EntryKind.SETTLEMENT, f"settlement/{epoch}", body))
    return {"entries": [{"seq": 1, "leaf": base64.b64encode(leaf).decode(), "proof": []}]}


class Ledger:
    """Published outcomes by epoch, and what was asked."""

    def __init__(self, settled: int, **outcomes: Any) -> None:
        self.settled: Any = settled
        self.outcomes: dict[int, Any] = {}
        self.asked: list[str] = []
        self.status = 200

    async def call(self, method: str, url: str, **_: Any) -> Reply:
        assert method == "GET"
        self.asked.append(url)
        if url.endswith("/v1/epochs"):
            return Reply(self.status, {}, msgspec.json.encode({"settled": self.settled}))
        found = self.outcomes.get(int(url.split("/")[-2]))
        if found is None:
            return Reply(404, {}, b"{}")
        return Reply(200, {}, msgspec.json.encode(found))


def payouts(ledger: Ledger) -> Payouts:
    return Payouts(
        client=ledger,
        ledger_url=lambda: "http://ledger/",
        identity=ME,
        earnings=Earnings(MemoryFiles(bytes_max=1 << 20), LOCAL.fees, Costs()),
        time=MarketTime(SystemClock(), skew_ms_max=2_000),
        deadline_ms=1_000,
    )


def total(one: Payouts) -> int:
    return sum(hour.payout_nano for hour in one.earnings.hours.values())


def test_each_settled_epoch_is_paid_once() -> None:
    ledger = Ledger(5)
    ledger.outcomes = {5: outcome(5, me=70, other=30), 6: outcome(6, me=1), 7: outcome(7, other=9)}
    one = payouts(ledger)
    asyncio.run(one.look())
    assert total(one) == 70
    asyncio.run(one.look())
    assert total(one) == 70
    ledger.settled = 7
    asyncio.run(one.look())
    assert (total(one), one.earnings.settled) == (71, 7)


def test_an_epoch_that_was_not_published_is_passed_over() -> None:
    ledger = Ledger(1)
    ledger.outcomes = {3: outcome(3, me=4)}
    one = payouts(ledger)
    asyncio.run(one.look())
    ledger.settled = 3
    asyncio.run(one.look())
    assert (total(one), one.earnings.settled) == (4, 3)


def test_a_ledger_that_is_down_is_asked_again_from_the_same_epoch() -> None:
    ledger = Ledger(1)
    ledger.outcomes = {1: outcome(1, me=4)}
    ledger.status = 503
    one = payouts(ledger)
    with pytest.raises(PeerDown):
        asyncio.run(one.look())
    assert one.earnings.settled == -1
    ledger.status = 200
    asyncio.run(one.look())
    assert total(one) == 4


@pytest.mark.parametrize("settled", [-1, None, "7", True, 1.5])
def test_nonsense_about_epochs_pays_nothing(settled: Any) -> None:
    ledger = Ledger(0)
    ledger.settled = settled
    one = payouts(ledger)
    asyncio.run(one.look())
    assert total(one) == 0


def test_before_the_market_is_known_nobody_is_asked() -> None:
    ledger = Ledger(3)
    one = payouts(ledger)
    one.ledger_url = lambda: ""
    asyncio.run(one.look())
    assert ledger.asked == []


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"entries": 7},
        {"entries": [7, None, {"leaf": 1}, {"leaf": "!!"}, {"leaf": "aGVsbG8="}]},
        {
            "entries": [
                {"leaf": base64.b64encode(b'{"body":{},"id":"x","kind":"settlement"}').decode()}
            ]
        },
    ],
)
def test_what_is_no_outcome_pays_nothing(value: dict[str, Any]) -> None:
    assert payout_in(value, ME) == 0

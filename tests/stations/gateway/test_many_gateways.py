"""Several gateways of one operator spend from one account: what they hold never adds up to more.

The gateways' leases run against the ledger's own rules and a store that refuses what the books
refuse. Gateways are killed, answers are lost, records come late, leases expire, receipts stay
unsealed; and still nobody is overdrawn, and in the end everything that was held is free again.
"""

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.properties import in_full
from tests.stations.gateway.many_gateways import GATEWAYS, Market

from penstock.sim.loop import VirtualLoop, run
from penstock.spec.books import OPERATOR

NUMBERS = st.integers(0, GATEWAYS - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), NUMBERS, st.integers(1, 2_000)),
        st.tuples(st.just("enter"), NUMBERS, st.integers(1, 300)),
        st.tuples(st.just("end"), NUMBERS, st.integers(0, 2_000)),
        st.tuples(st.sampled_from(["seal", "seal", "unsealed"]), NUMBERS, st.just(0)),
        st.tuples(st.just("deliver"), st.just(0), st.integers(1, 5)),
        st.tuples(st.just("kill"), NUMBERS, st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 60_000)),
        st.tuples(st.just("lose"), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.just("storm"), NUMBERS, st.integers(1, 900)),
    ),
    max_size=60,
)


async def play_step(market: Market, step: tuple[str, int, int]) -> None:
    kind, number, amount = step
    match kind:
        case "enter":
            await market.enter(number, amount)
        case "storm":  # all gateways at once, several requests each
            async with asyncio.TaskGroup() as group:
                for one in range(2 * GATEWAYS):
                    group.create_task(market.enter(one % GATEWAYS, amount))
        case "end":
            market.end(number, amount)
        case "seal" | "unsealed":
            market.seal(number, is_sealed=kind == "seal")
        case "deliver":
            await market.deliver(amount)
        case "kill":
            await market.kill(number)
        case "wait":
            await asyncio.sleep(amount / 1000)
            await market.expire()
        case "lose":
            market.fates += [("question lost", "answer lost")[number]] * amount
        case _:
            raise AssertionError(kind)


def played(steps: list[tuple[str, int, int]]) -> Market:
    """These steps, with the rules checked after each, and the rest."""
    loop = VirtualLoop(horizon_ms=24 * 3_600_000)
    market = Market(loop)

    async def main() -> None:
        await market.open()
        for step in steps:
            await play_step(market, step)
            market.check()
        await market.rest()

    run(main(), loop)
    return market


@settings(max_examples=in_full(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_many_gateways_never_overspend_an_account_whatever_happens(
    steps: list[tuple[str, int, int]],
) -> None:
    played(steps)


def test_what_one_gateway_holds_another_cannot_spend() -> None:
    both = [("enter", 0, 3_000), ("enter", 1, 3_000), ("end", 0, 3_000), ("seal", 0, 0)]
    market = played([*both, ("end", 1, 3_000), ("seal", 1, 0), ("deliver", 0, 9)])
    assert market.posted_nano == 3_000, "the second was refused, not served on credit"


def test_a_killed_gateways_money_comes_back_when_it_starts_again() -> None:
    market = played([("enter", 0, 4_000), ("kill", 0, 0), ("deliver", 0, 9), ("enter", 1, 4_000)])
    assert market.posted_nano == 1, "its request was served, and cost what `rest` charged"


def test_a_charge_that_was_never_sealed_is_spent_again() -> None:
    steps: list[Any] = [("enter", 0, 4_900), ("end", 0, 4_900), ("unsealed", 0, 0)]
    market = played([*steps, ("enter", 0, 4_900), ("end", 0, 4_900), ("seal", 0, 0)])
    assert market.posted_nano == 4_900


def test_an_answer_that_was_lost_holds_its_money_only_until_it_expires() -> None:
    lost = [("deliver", 0, 9), ("lose", 1, 1), ("enter", 0, 1), ("enter", 1, 4_999)]
    waited = [("wait", 0, 30_000), ("deliver", 0, 9), ("wait", 0, 30_000)]
    market = played([*lost, *waited, ("enter", 1, 4_999), ("end", 1, 4_999)])
    assert market.posted_nano == 4_999, "refused at first, served when the lost lease had expired"


def test_the_operator_pays_only_when_a_gateway_that_died_had_spoken_too_late() -> None:
    """What a dead gateway never said is claimed by the miner, and no payer's loss."""
    spoken = [("enter", 0, 900), ("end", 0, 900), ("seal", 0, 0), ("kill", 0, 0)]
    assert played(spoken).posted_nano == 900, "what was said before the crash is still paid"
    silent = [("enter", 0, 900), ("end", 0, 900), ("kill", 0, 0)]
    assert played(silent).posted_nano == 0
    assert not played(silent).store.books.balance(OPERATOR).posted_nano

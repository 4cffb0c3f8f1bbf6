"""Leases by themselves, against a ledger that answers whatever the test says."""

import asyncio
import json
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from penstock.gateway.errors import BadKey, BooksBehind, InsufficientFunds
from penstock.gateway.leases import RETURN_MS, Hold, Leases, LeaseTerms, Payer
from penstock.kit.ports import Answer, BusDown
from penstock.sim.loop import VirtualClock, VirtualLoop, run

AMOUNT_NANO = 1_000
TTL_MS = 30_000


class SaidLedger:
    """Implements Ask: gives the answers it was told, in order; the last one for ever."""

    def __init__(self, *answers: dict[str, Any] | bytes | None) -> None:
        self.answers = list(answers)
        self.questions: list[dict[str, Any]] = []

    async def ask(self, subject: str, data: bytes, *, deadline_ms: int) -> bytes:
        assert subject == "ledger.lease"
        assert deadline_ms > 0
        self.questions.append(json.loads(data))
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await asyncio.sleep(0.01)
        if said is None:
            raise BusDown("as told")
        return said if isinstance(said, bytes) else json.dumps(said).encode()

    def answer(self, subject: str, handler: Answer) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError


class Returned:
    """Implements GiveBack."""

    def __init__(self) -> None:
        self.lease_ids: list[str] = []

    def lease_closed(self, lease_id: str) -> None:
        self.lease_ids.append(lease_id)


def lease(lease_id: str = "l-1", nano: int = AMOUNT_NANO, **changes: Any) -> dict[str, Any]:
    expires_ms = 1_767_225_600_000 + TTL_MS
    return {
        "account": "alice",
        "lease_id": lease_id,
        "granted_nano": nano,
        "expires_ms": expires_ms,
        **changes,
    }


POOR = {"error": "insufficient_funds", "available_nano": 7}


class Desk:
    """Leases with their surroundings."""

    def __init__(self, loop: VirtualLoop, *answers: Any, payers_max: int = 10) -> None:
        self.ledger = SaidLedger(*answers)
        self.returned = Returned()
        self.leases = Leases(
            ask=self.ledger,
            clock=VirtualClock(loop),
            give_back=self.returned,
            terms=LeaseTerms(
                gateway="g",
                amount_nano=AMOUNT_NANO,
                ttl_ms=TTL_MS,
                ask_ms=2_000,
                idle_ms=60_000,
                payers_max=payers_max,
            ),
        )

    async def payer(self, key_hash: str = "k") -> Payer:
        return await self.leases.payer_of(key_hash)

    async def hold(self, nano: int) -> Hold:
        return await self.leases.hold(await self.payer(), nano)


def in_time(loop: VirtualLoop, scenario: Coroutine[Any, Any, None]) -> None:
    run(scenario, loop)


@pytest.fixture
def loop() -> VirtualLoop:
    return VirtualLoop(horizon_ms=3_600_000)


def test_a_hold_is_settled_once_and_frees_what_was_not_charged(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        desk = Desk(loop, lease())
        hold = await desk.hold(600)
        assert (hold.lease.held_nano, hold.lease.free_nano) == (600, 400)
        hold.settle(100)
        assert (hold.lease.held_nano, hold.lease.spent_nano, hold.lease.free_nano) == (0, 100, 900)
        with pytest.raises(AssertionError):
            hold.settle(0)

    in_time(loop, scenario())


@pytest.mark.parametrize("charge_nano", [-1, 601])
def test_a_charge_beyond_its_hold_is_a_bug(loop: VirtualLoop, charge_nano: int) -> None:
    async def scenario() -> None:
        hold = await Desk(loop, lease()).hold(600)
        with pytest.raises(AssertionError):
            hold.settle(charge_nano)
        hold.settle(600)

    in_time(loop, scenario())


def test_holds_at_once_never_exceed_the_lease_and_ask_once_for_more(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        desk = Desk(loop, lease(), lease(nano=5_000))
        payer = await desk.payer()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(desk.leases.hold(payer, 600)) for _ in range(6)]
        assert sum(task.result().nano for task in tasks) == 3_600
        assert payer.lease is not None
        assert payer.lease.free_nano == 1_400
        assert len(desk.ledger.questions) == 2
        assert desk.ledger.questions[1] == {
            "gateway": "g",
            "key_hash": "k",
            "lease_id": "l-1",
            "need_nano": 200,
        }

    in_time(loop, scenario())


def test_a_refusal_names_all_that_is_there_the_lease_included(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        desk = Desk(loop, lease(), POOR)
        with pytest.raises(InsufficientFunds) as caught:
            await desk.hold(1_500)
        assert (caught.value.needed_nano, caught.value.available_nano) == (1_500, 1_007)
        assert desk.leases.held_nano == 0

    in_time(loop, scenario())


def test_of_two_leases_the_one_with_more_stays_and_the_other_goes_back(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        desk = Desk(loop, lease("l-1"), lease("l-2", 10), lease("l-3", 9_000))
        first = await desk.payer("k1")
        assert await desk.payer("k2") is first
        assert first.lease is not None
        assert first.lease.lease_id == "l-1"
        assert desk.returned.lease_ids == ["l-2"]
        await desk.payer("k3")
        assert first.lease.lease_id == "l-3"
        assert desk.returned.lease_ids == ["l-2", "l-1"]

    in_time(loop, scenario())


def test_a_retired_lease_goes_back_with_its_last_hold(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        desk = Desk(loop, lease())
        payer = await desk.payer()
        holds = [await desk.leases.hold(payer, 100) for _ in range(2)]
        desk.leases.close()
        assert desk.returned.lease_ids == []
        holds[0].settle(1)
        assert desk.returned.lease_ids == []
        holds[1].settle(1)
        assert desk.returned.lease_ids == ["l-1"]

    in_time(loop, scenario())


def test_right_after_a_return_a_refusal_is_not_final(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        desk = Desk(loop, lease(), POOR)
        payer = await desk.payer()
        desk.leases.close()
        with pytest.raises(BooksBehind):
            await desk.leases.hold(payer, 100)
        await asyncio.sleep(RETURN_MS / 1000)
        with pytest.raises(InsufficientFunds):
            await desk.leases.hold(payer, 100)

    in_time(loop, scenario())


NONSENSE: list[Any] = [
    None,
    b"",
    b"[]",
    b'{"account": 5}',
    {},
    {"error": "who knows"},
    {"account": "alice"},
]


@pytest.mark.parametrize("answer", NONSENSE)
def test_a_ledger_that_makes_no_sense_counts_as_away(loop: VirtualLoop, answer: Any) -> None:
    async def scenario() -> None:
        with pytest.raises(BooksBehind):
            await Desk(loop, answer).payer()

    in_time(loop, scenario())


def test_a_key_that_was_closed_is_refused_when_its_lease_is_used_up(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        desk = Desk(loop, lease(), {"error": "unknown_key"})
        hold = await desk.hold(900)
        with pytest.raises(BadKey):
            await desk.leases.hold(hold.payer, 900)
        hold.settle(900)

    in_time(loop, scenario())


def test_in_its_last_second_a_lease_is_renewed_before_it_is_used(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        later = lease(expires_ms=lease()["expires_ms"] + TTL_MS)
        desk = Desk(loop, lease(), later)
        payer = await desk.payer()
        await asyncio.sleep((TTL_MS - 500) / 1000)
        hold = await desk.leases.hold(payer, 1)
        assert desk.ledger.questions[-1]["lease_id"] == "l-1"
        assert desk.ledger.questions[-1]["need_nano"] == 0
        hold.settle(0)

    in_time(loop, scenario())


def test_an_expired_lease_is_replaced(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        later = lease("l-2", expires_ms=lease()["expires_ms"] + TTL_MS)
        desk = Desk(loop, lease(), later)
        payer = await desk.payer()
        await asyncio.sleep((TTL_MS + 500) / 1000)
        hold = await desk.leases.hold(payer, 1)
        assert hold.lease.lease_id == "l-2"
        assert desk.returned.lease_ids == ["l-1"]
        hold.settle(0)

    in_time(loop, scenario())


def test_payers_are_bounded_and_one_with_holds_is_never_forgotten(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        answers = [lease(f"l-{n}", account=f"a{n}") for n in range(4)]
        desk = Desk(loop, *answers, payers_max=2)
        first = await desk.payer("k0")
        hold = await desk.leases.hold(first, 1)
        second = await desk.payer("k1")
        await desk.payer("k2")
        assert desk.leases.is_known(first)
        assert not desk.leases.is_known(second)
        assert desk.returned.lease_ids == ["l-1"]
        hold.settle(0)

    in_time(loop, scenario())


def test_when_all_payers_have_holds_a_new_one_has_to_wait(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        answers = [lease(f"l-{n}", account=f"a{n}") for n in range(2)]
        desk = Desk(loop, *answers, payers_max=1)
        hold = await desk.leases.hold(await desk.payer("k0"), 1)
        with pytest.raises(BooksBehind):
            await desk.payer("k1")
        hold.settle(0)

    in_time(loop, scenario())


def test_a_lease_is_topped_up_when_half_of_what_filled_it_is_gone(loop: VirtualLoop) -> None:
    """A small account's lease is measured by what it got, not by what a rich one would get."""

    async def scenario() -> None:
        desk = Desk(loop, lease(nano=100), lease(nano=140))
        payer = await desk.payer()
        async with asyncio.TaskGroup() as group:
            upkeep = group.create_task(desk.leases.keep(beat_ms=1_000))
            kept = await desk.leases.hold(payer, 50)
            await asyncio.sleep(3)
            assert len(desk.ledger.questions) == 1
            more = await desk.leases.hold(payer, 1)
            await asyncio.sleep(3)
            upkeep.cancel()
        assert [one["need_nano"] for one in desk.ledger.questions] == [0, 1]
        assert kept.lease.free_nano == 89
        kept.settle(0)
        more.settle(0)

    in_time(loop, scenario())


def test_upkeep_renews_when_the_account_does_not_reach_for_more(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        later = lease(expires_ms=lease()["expires_ms"] + TTL_MS)
        desk = Desk(loop, lease(), POOR, later)
        hold = await desk.hold(900)
        async with asyncio.TaskGroup() as group:
            upkeep = group.create_task(desk.leases.keep(beat_ms=1_000))
            await asyncio.sleep(1)
            upkeep.cancel()
        needs = [question["need_nano"] for question in desk.ledger.questions]
        assert needs[:3] == [0, 1, 0]
        assert hold.lease.expires_ms == later["expires_ms"]
        hold.settle(0)

    in_time(loop, scenario())


class SlowLedger(SaidLedger):
    """Answers a question about a lease it granted only when told to."""

    def __init__(self, *answers: dict[str, Any] | bytes | None) -> None:
        super().__init__(*answers)
        self.may_extend = asyncio.Event()

    async def ask(self, subject: str, data: bytes, *, deadline_ms: int) -> bytes:
        said = await super().ask(subject, data, deadline_ms=deadline_ms)
        if json.loads(data)["lease_id"]:
            await self.may_extend.wait()
        return said


def test_an_extension_that_comes_late_does_not_bring_a_retired_lease_back(
    loop: VirtualLoop,
) -> None:
    """Else its money would be there twice, and it would be given back under its new holds' feet."""

    async def scenario() -> None:
        desk = Desk(loop)
        extended, other = lease("l-1", 1_700), lease("l-2", 1_600)
        desk.ledger = ledger = SlowLedger(lease("l-1"), extended, other)
        desk.leases._ask = ledger
        payer = await desk.payer("k1")
        first = await desk.leases.hold(payer, 501)
        async with asyncio.TaskGroup() as group:
            upkeep = group.create_task(desk.leases.keep(beat_ms=1_000))
            await asyncio.sleep(0.1)  # the extension of l-1 is asked for, and the answer is slow
            second = group.create_task(desk.payer("k2"))  # another key of the account brings l-2
            await asyncio.sleep(0.1)
            ledger.may_extend.set()
            assert await second is payer
            await asyncio.sleep(0.1)
            upkeep.cancel()
        assert payer.lease is not None
        leases = {first.lease, payer.lease}
        assert len({one.lease_id for one in leases}) == len(leases), "one object for one lease"
        hold = await desk.leases.hold(payer, 1_000)
        first.settle(0)
        if hold.lease is not first.lease:
            assert hold.lease.lease_id not in desk.returned.lease_ids
        hold.settle(0)

    in_time(loop, scenario())


def test_an_extension_that_comes_when_the_gateway_stops_is_no_new_lease(loop: VirtualLoop) -> None:
    async def scenario() -> None:
        desk = Desk(loop)
        desk.ledger = ledger = SlowLedger(lease("l-1"), lease("l-1", 1_700))
        desk.leases._ask = ledger
        payer = await desk.payer()

        async def ask_for_more() -> None:
            with pytest.raises(BooksBehind):
                await desk.leases.hold(payer, 1_500)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask_for_more())
            await asyncio.sleep(0.1)
            desk.leases.close()
            ledger.may_extend.set()
        assert desk.leases.count == 0
        assert desk.returned.lease_ids == ["l-1"]

    in_time(loop, scenario())

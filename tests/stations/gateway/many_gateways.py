"""Several gateways that live, die and lease from one ledger, over a bus that loses words."""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

import msgspec
from tests.makers import ToyKey, toy_verify
from tests.stations.ledger.makers_ledger import charter, record

from penstock.gateway.errors import BadKey, BooksBehind, InsufficientFunds
from penstock.gateway.leases import Hold, Leases, LeaseTerms
from penstock.kit.ports import Answer, BusDown
from penstock.ledger.intake import Judged, LeaseClosing, Rules, judged_record, wanted_for
from penstock.ledger.leases import (
    Granted,
    expired_before_ms,
    grant,
    read_question,
)
from penstock.ledger.leases import wanted_for as wanted_for_lease
from penstock.ledger.policy import Draft, Fate
from penstock.ledger.state import Wanted
from penstock.ledger.writer import Writer
from penstock.sim.loop import VirtualClock, VirtualLoop
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.books import MINT, Leg, Post, payer_account
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.messages import Charter
from penstock.spec.params import LOCAL

ACCOUNT, KEY_HASH = "ann", "ab" * 32
PAYER = payer_account(ACCOUNT)
PARAMS = replace(LOCAL, lease_amount_nano=1_000)
CREDIT_NANO = 5_000
GATEWAYS = 3
BEAT_MS = 1_000
IDENTITIES = tuple(ToyKey(f"gateway {number}").identity for number in range(GATEWAYS))
TEMPLATE = judged_record(
    to_plain(record(1)),
    Rules(
        charter=from_plain(Charter, charter().body),
        params=PARAMS,
        verify=toy_verify,
    ),
)


@dataclass(eq=False)
class Life:
    """One life of a gateway; a killed one says nothing any more."""

    identity: str
    leases: Leases
    upkeep: asyncio.Task[None]
    holds: list[Hold] = field(default_factory=list)
    ended: list[tuple[Hold, int]] = field(default_factory=list)
    """Orders that have ended and wait for their seals, with what they were charged."""
    is_dead: bool = False


@dataclass(frozen=True)
class Said:
    """An event on the bus, and when it came there."""

    arrival: Judged | LeaseClosing
    life: Life
    at_ms: int
    lease_expires_ms: int = 0


class Mouth:
    """A gateway's Ask and GiveBack."""

    def __init__(self, market: "Market", number: int) -> None:
        self.market = market
        self.number = number
        self.life: Life

    async def ask(self, subject: str, data: bytes, *, deadline_ms: int) -> bytes:
        assert (subject, deadline_ms > 0) == ("ledger.lease", True)
        fate = self.market.fates.pop() if self.market.fates else "heard"
        await asyncio.sleep(0.01)
        if self.life.is_dead or fate == "question lost":
            raise BusDown("the question was lost")
        answer = await self.market.answer(data)
        if fate == "answer lost":
            raise BusDown("the answer was lost")
        return answer

    def answer(self, subject: str, handler: Answer) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    def lease_closed(self, lease_id: str) -> None:
        self.market.say(LeaseClosing(lease_id=lease_id), self.life)


class Market:
    """The account, the ledger's rules, the bus between, and the gateways."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.clock = VirtualClock(loop)
        self.store = MemoryLedgerStore()
        self.writer = Writer(self.store, params=PARAMS)
        self.bus: list[Said] = []
        self.fates: list[str] = []
        self.posted_nano = 0
        self.fates_of_records: list[Fate] = []
        self._orders = self._leases = 0
        self.lives: list[Life] = []

    async def open(self) -> None:
        legs = (Leg(MINT, -CREDIT_NANO), Leg(PAYER, CREDIT_NANO))

        def decide(draft: Draft) -> None:
            draft.open_first_epoch(self.clock.now_ms() // PARAMS.epoch_ms)
            draft.post(Post(id="opening/1", legs=legs))

        await self.writer.decide(Wanted(accounts=(PAYER, MINT)), decide)
        self.lives = [await self.start(number) for number in range(GATEWAYS)]

    async def start(self, number: int) -> Life:
        """A gateway with nothing in its memory; first it frees what its former life held."""
        mouth = Mouth(self, number)
        leases = Leases(
            ask=mouth,
            clock=self.clock,
            give_back=mouth,
            terms=LeaseTerms(
                gateway=IDENTITIES[number],
                amount_nano=PARAMS.lease_amount_nano,
                ttl_ms=PARAMS.lease_ttl_ms,
                ask_ms=2_000,
                idle_ms=10_000,
                payers_max=10,
            ),
        )
        upkeep = asyncio.get_running_loop().create_task(leases.keep(beat_ms=BEAT_MS))
        mouth.life = Life(IDENTITIES[number], leases, upkeep)
        at_ms = self.clock.now_ms()
        former = LeaseClosing(lease_id="", gateway=IDENTITIES[number], opened_ms_max=at_ms)
        self.say(former, mouth.life)
        await asyncio.sleep(0.001)  # it opens no lease in the millisecond in which it starts
        return mouth.life

    async def kill(self, number: int) -> None:
        """Everything it knew is gone, also what it had not said yet."""
        life = self.lives[number]
        life.is_dead = True
        life.upkeep.cancel()
        self.lives[number] = await self.start(number)

    def say(self, arrival: Judged | LeaseClosing, life: Life, *, expires_ms: int = 0) -> None:
        if not life.is_dead:
            self.bus.append(Said(arrival, life, self.clock.now_ms(), expires_ms))

    async def answer(self, data: bytes) -> bytes:
        """`ledger.lease`, as the service answers it."""
        question = read_question(data)
        self._leases += 1
        fresh = f"l-{self._leases:032x}"
        answer = await self.writer.decide(
            wanted_for_lease(question, ACCOUNT),
            lambda draft: grant(
                draft,
                question,
                account=ACCOUNT,
                now_ms=self.clock.now_ms(),
                new_lease_id=fresh,
            ),
        )
        if isinstance(answer, Granted):
            return msgspec.json.encode(answer)
        said = {"error": "insufficient_funds", "available_nano": answer.available_nano}
        return msgspec.json.encode(said)

    async def enter(self, number: int, nano: int) -> None:
        """A request at this gateway."""
        life = self.lives[number]
        try:
            payer = await life.leases.payer_of(KEY_HASH)
            hold = await life.leases.hold(payer, nano)
        except (InsufficientFunds, BooksBehind, BadKey):
            return  # refused: nothing is held for it
        if not life.is_dead:
            life.holds.append(hold)

    def end(self, number: int, nano: int) -> None:
        """The oldest request's order ends; its seal is still owed."""
        life = self.lives[number]
        if life.holds:
            hold = life.holds.pop(0)
            charge_nano = min(hold.nano, nano)
            hold.lease.pending += 1
            hold.settle(charge_nano)
            life.ended.append((hold, charge_nano))

    def seal(self, number: int, *, is_sealed: bool) -> None:
        """The oldest ended order goes on record; what was never sealed costs nothing."""
        life = self.lives[number]
        if not life.ended:
            return
        hold, told_nano = life.ended.pop(0)
        charge_nano = told_nano if is_sealed else 0
        self._orders += 1
        order = replace(TEMPLATE.judgement.order, gateway=life.identity)
        judgement = replace(
            TEMPLATE.judgement, order=order, charge_nano=charge_nano, earned_nano=charge_nano
        )
        order_id = f"o-{self._orders:032x}"
        judged = replace(
            TEMPLATE,
            judgement=judgement,
            row=replace(TEMPLATE.row, order_id=order_id),
            leaf=order_id.encode(),
            account=ACCOUNT,
            lease_id=hold.lease.lease_id,
        )
        self.say(judged, life, expires_ms=hold.lease.expires_ms)
        life.leases.recorded(hold, refund_nano=told_nano - charge_nano)

    async def deliver(self, count: int) -> None:
        """The ledger takes in so many events, in order."""
        for _ in range(min(count, len(self.bus))):
            said = self.bus.pop(0)
            arrival = said.arrival

            def decide(draft: Draft, one: Judged | LeaseClosing = arrival) -> Fate:
                return (
                    draft.close_leases(one)
                    if isinstance(one, LeaseClosing)
                    else draft.take_record(one)
                )

            fate = await self.writer.decide(wanted_for((arrival,)), decide)
            if isinstance(arrival, Judged):
                self._note(said, arrival, fate)

    def _note(self, said: Said, judged: Judged, fate: Fate) -> None:
        """The operator pays only for a gateway that died, or let its lease run out."""
        if fate is Fate.POSTED:
            self.posted_nano += judged.judgement.charge_nano
            return
        assert fate is Fate.OPERATOR_PAID
        lost = said.life.is_dead or self.clock.now_ms() > said.lease_expires_ms
        assert lost, "a living gateway's orders are covered by its leases"

    async def expire(self) -> None:
        """What the ledger's upkeep does about leases."""
        due_ms = expired_before_ms(
            now_ms=self.clock.now_ms(),
            quiet_ms=min([one.at_ms for one in self.bus], default=self.clock.now_ms()),
            grace_ms=PARAMS.claim_grace_ms,
        )

        def decide(draft: Draft) -> None:
            for lease in draft.leases():
                if lease.is_open and lease.expires_ms <= due_ms:
                    draft.close_lease(lease)

        await self.writer.decide(Wanted(leases_due_ms=due_ms), decide)

    def check(self) -> None:
        """At any moment: nobody is overdrawn, and no gateway holds more than it was granted."""
        books = self.store.books
        for name, balance in books.accounts.items():
            assert balance.held_nano >= 0
            assert balance.free_nano >= 0 or name == MINT
        payer = books.balance(PAYER)
        assert payer.posted_nano == CREDIT_NANO - self.posted_nano >= 0
        assert sum(balance.posted_nano for balance in books.accounts.values()) == 0
        held = sum(hold.left_nano for hold in books.holds.values())
        assert payer.held_nano == held
        spendable = 0
        for life in self.lives:
            for known in life.leases._payers.values():
                if known.lease is not None:
                    assert known.lease.free_nano >= 0
                    spendable += known.lease.granted_nano - known.lease.spent_nano
        assert spendable <= CREDIT_NANO, "all gateways together may spend what there is"

    async def rest(self) -> None:
        """Everything ends; then all is free but what was paid for."""
        self.fates.clear()
        for number, life in enumerate(self.lives):
            while life.holds:
                self.end(number, 1)
            while life.ended:
                self.seal(number, is_sealed=True)
            life.upkeep.cancel()
            life.leases.close()
            assert life.leases.held_nano == 0
        await self.deliver(len(self.bus))
        await asyncio.sleep((PARAMS.lease_ttl_ms + PARAMS.claim_grace_ms + 1) / 1000)
        await self.expire()
        self.check()
        books = self.store.books
        assert not [hold for hold in books.holds.values() if hold.is_open or hold.left_nano]
        assert books.balance(PAYER).free_nano == CREDIT_NANO - self.posted_nano

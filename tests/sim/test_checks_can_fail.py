"""A check that cannot fail is none: each test plants one bug in a station and sees its rule break."""

import os
from dataclasses import replace
from typing import Any

import pytest
from tests.sim.playing import broken_rules, played

from penstock.gateway.choice import Choice
from penstock.gateway.directory import Directory
from penstock.gateway.leases import Leases
from penstock.gateway.orders import Orders
from penstock.gateway.records import Recorder
from penstock.ledger import settle
from penstock.ledger.intake import Judged
from penstock.ledger.policy import Draft, Fate
from penstock.miner.instance import Instance
from penstock.miner.normalise import StreamReader
from penstock.miner.stencil import Run
from penstock.sim import world as world_module
from penstock.spec import books
from penstock.spec.books import Leg, Post, payer_account
from penstock.spec.messages import Report, Settlement
from penstock.spec.params import FeeSplit
from penstock.spec.pricing import Fees
from penstock.spec.routing import EXPLORING
from penstock.validator.service import Validator

SEED = 2
"""A world of one gateway, liars among its miners, and no fault in its first half minute but one."""


@pytest.fixture(autouse=True)
def _short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "REST_S_MAX", 150)


def test_without_a_bug_every_rule_holds() -> None:
    assert played(SEED).broken == ()


def test_a_fee_split_that_rounds_every_part_up_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded_up(charge: int, fees: FeeSplit) -> Fees:
        parts = [
            -(-charge * ppm // 1_000_000)
            for ppm in (fees.miner_ppm, fees.operator_ppm, fees.pool_ppm)
        ]
        return Fees(*parts)

    monkeypatch.setattr(books, "split_charge", rounded_up)
    assert "no station says event.rejected" in broken_rules(played(SEED))


def test_a_fee_split_that_favours_the_operator_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfair(charge: int, fees: FeeSplit) -> Fees:
        miner, pool = charge * fees.miner_ppm // 1_000_000, charge * fees.pool_ppm // 1_000_000
        return Fees(miner_nano=miner, operator_nano=charge - miner - pool, pool_nano=pool)

    monkeypatch.setattr(books, "split_charge", unfair)
    assert "everybody has what the log says" in broken_rules(played(SEED))


def test_a_charge_posted_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Draft._pay

    def twice(self: Draft, judged: Judged) -> Fate:
        fate, charge = right(self, judged), judged.judgement.charge_nano
        if fate is Fate.POSTED and charge:
            legs = (Leg(payer_account(judged.account), -charge), Leg("operator", charge))
            self.post(Post(id=f"again/{judged.order_id}", legs=legs))
        return fate

    monkeypatch.setattr(Draft, "_pay", twice)
    assert "every movement of money has its reason" in broken_rules(played(SEED))


def test_a_charge_on_the_wrong_account_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Recorder.add

    def confused(
        self: Recorder, order_id: str, record: bytes, *, account: str, lease_id: str
    ) -> None:
        del account
        right(self, order_id, record, account="person-1", lease_id=lease_id)

    monkeypatch.setattr(Recorder, "add", confused)
    assert "payers pay for what they got" in broken_rules(played(SEED))


def test_a_record_that_is_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right, seen = Recorder.add, [0]

    def forgetful(
        self: Recorder, order_id: str, record: bytes, *, account: str, lease_id: str
    ) -> None:
        seen[0] += 1
        if seen[0] % 20:
            right(self, order_id, record, account=account, lease_id=lease_id)

    monkeypatch.setattr(Recorder, "add", forgetful)
    assert broken_rules(played(SEED)) & {"every order ends in the log", "only a dead gateway fails"}


def test_a_slot_that_is_not_given_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right, given = Instance.give, [0]

    def greedy(self: Instance) -> None:
        given[0] += 1
        if given[0] % 25:
            right(self)

    monkeypatch.setattr(Instance, "give", greedy)
    assert broken_rules(played(SEED)) == {"at rest, nothing is held"}


def test_a_lease_that_is_not_given_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep_them(self: Leases, payer: Any) -> bool:
        return True

    monkeypatch.setattr(Leases, "_tend", keep_them)
    assert broken_rules(played(SEED)) == {"at rest, nothing is held"}


def test_an_answer_that_lost_a_word_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = StreamReader._shown

    def deaf(self: StreamReader, fields: dict[str, Any], *, is_usage_event: bool) -> dict[str, Any]:
        shown = right(self, fields, is_usage_event=is_usage_event)
        for choice in shown.get("choices", []):
            if choice.get("delta", {}).get("content") == " turbine":
                choice["delta"]["content"] = " wheel"
        return shown

    cut = Run.data
    monkeypatch.setattr(StreamReader, "_shown", deaf)
    monkeypatch.setattr(Run, "data", lambda *part: cut(*part).replace(b'" turbine"', b'" wheel"'))
    assert "every answer is the engine's own" in broken_rules(played(SEED))


def test_a_loop_that_crashes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(self: Directory) -> None:
        raise RuntimeError("over its own feet")

    monkeypatch.setattr(Directory, "sweep", stumble)
    assert "no station says task.crashed" in broken_rules(played(SEED))


def test_a_validator_with_an_opinion_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Validator.report_on

    async def partial(self: Validator, epoch: int) -> Report | None:
        report = await right(self, epoch)
        if report is None or self.name == "validator-1" or not report.scores:
            return report
        return replace(report, scores=report.scores[1:])

    monkeypatch.setattr(Validator, "report_on", partial)
    assert "validators agree" in broken_rules(played(SEED))


def test_a_settlement_that_pays_too_little_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = settle.settlement_of

    def stingy(*arguments: Any, **named: Any) -> Settlement:
        settlement = right(*arguments, **named)
        paid = sum(one.amount_nano for one in settlement.payouts)
        return replace(settlement, payouts=(), reserve_nano=settlement.reserve_nano + paid)

    monkeypatch.setattr("penstock.ledger.upkeep.settlement_of", stingy)
    assert broken_rules(played(SEED)) == {"published epochs audit as identical"}


def test_a_gateway_that_routes_by_another_policy_than_it_names_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = Choice.spelled

    def pretending(self: Choice) -> bytes:
        self.policy = EXPLORING
        return honest(self)

    monkeypatch.setattr(Choice, "spelled", pretending)
    assert broken_rules(played(SEED)) == {"requests are routed by the policy that is named"}


def test_chance_that_does_not_come_from_the_seed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Orders.place

    def leaking(self: Orders, *arguments: Any, **named: Any) -> Any:
        return right(replace(self, entropy=os.urandom), *arguments, **named)

    monkeypatch.setattr(Orders, "place", leaking)
    assert played(SEED, length_ms=8_000).trace != played(SEED, length_ms=8_000).trace


def test_a_simulation_that_fails_itself_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(self: world_module.World) -> None:
        raise RuntimeError("over its own feet")

    monkeypatch.setattr(world_module.World, "_play", stumble)
    (broken,) = played(SEED).broken
    assert broken.check == "nothing crashes"
    assert broken.detail == "world: RuntimeError('over its own feet') in stumble, line " + str(
        stumble.__code__.co_firstlineno + 1
    )

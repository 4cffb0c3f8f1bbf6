"""Leases: a gateway spends within them, and what it does not spend always comes back."""

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.makers import GATEWAY, ToyKey
from tests.stations.ledger.makers_ledger import (
    CHARGE,
    KEY_HASH,
    OPERATOR_KEY,
    PARAMS,
    USD,
    World,
    charter,
    closing_event,
    record,
    record_event,
)

from penstock.spec.canon import from_plain
from penstock.spec.keys import sign
from penstock.spec.messages import Charter

AMOUNT = PARAMS.lease_amount_nano
PART = USD // 4
"""What a lease takes of an account with one USD, without a need for more."""
SECOND = ToyKey("second gateway")


@pytest.fixture
async def world() -> World:
    return await World(charter=charter(gateways=(GATEWAY.identity, SECOND.identity))).start()


async def held(world: World) -> int:
    return (await world.balance("payer/ann")).held_nano


class TestGranting:
    async def test_a_lease_holds_money_of_the_keys_account(self, world: World) -> None:
        await world.fund(10 * USD)
        answer = await world.lease(5)
        assert answer["account"] == "ann"
        assert answer["granted_nano"] == AMOUNT
        assert answer["expires_ms"] == world.clock.at_ms + PARAMS.lease_ttl_ms
        assert await held(world) == AMOUNT

    async def test_a_need_above_the_usual_amount_is_granted_whole(self, world: World) -> None:
        await world.fund(10 * USD)
        assert (await world.lease(4 * USD))["granted_nano"] == 4 * USD

    async def test_a_small_account_gives_a_quarter_and_leaves_the_rest_to_others(
        self, world: World
    ) -> None:
        await world.fund(700)
        assert (await world.lease(5))["granted_nano"] == 175
        other = await world.lease(300, gateway=SECOND.identity)
        assert other["granted_nano"] == 300

    async def test_a_small_account_gives_all_it_has_to_who_needs_it(self, world: World) -> None:
        await world.fund(700)
        assert (await world.lease(700))["granted_nano"] == 700

    async def test_the_last_nano_can_still_be_leased(self, world: World) -> None:
        await world.fund(1)
        assert (await world.lease(0))["granted_nano"] == 1

    async def test_a_need_above_what_is_free_is_refused_and_holds_nothing(
        self, world: World
    ) -> None:
        await world.fund(700)
        answer = await world.lease(701)
        assert answer == {"error": "insufficient_funds", "available_nano": 700}
        assert await held(world) == 0

    async def test_an_account_without_money_gets_no_lease_even_for_nothing(
        self, world: World
    ) -> None:
        await world.fund(0)
        assert (await world.lease(0))["error"] == "insufficient_funds"

    async def test_money_held_by_one_gateway_is_not_promised_to_another(self, world: World) -> None:
        await world.fund(AMOUNT + 5)
        await world.lease(AMOUNT)
        answer = await world.lease(6, gateway=SECOND.identity)
        assert answer == {"error": "insufficient_funds", "available_nano": 5}

    async def test_an_extension_adds_to_the_same_lease(self, world: World) -> None:
        await world.fund(10 * USD)
        first = await world.lease(1)
        world.clock.pass_ms(1_000)
        second = await world.lease(1, lease_id=first["lease_id"])
        assert second["lease_id"] == first["lease_id"]
        assert second["granted_nano"] == 2 * AMOUNT
        assert second["expires_ms"] == first["expires_ms"] + 1_000
        assert await held(world) == 2 * AMOUNT

    async def test_a_need_of_nothing_only_puts_off_the_expiry(self, world: World) -> None:
        await world.fund(10 * USD)
        first = await world.lease(1)
        world.clock.pass_ms(1_000)
        second = await world.lease(0, lease_id=first["lease_id"])
        assert second["granted_nano"] == first["granted_nano"]
        assert second["expires_ms"] == first["expires_ms"] + 1_000

    async def test_a_lease_without_more_money_can_still_be_renewed(self, world: World) -> None:
        await world.fund(700)
        first = await world.lease(700)
        assert (await world.lease(0, lease_id=first["lease_id"]))["granted_nano"] == 700

    async def test_a_closed_lease_is_replaced_by_a_new_one(self, world: World) -> None:
        lease = await world.leased()
        await world.take(closing_event(lease))
        answer = await world.lease(1, lease_id=lease)
        assert answer["lease_id"] != lease
        assert await held(world) == PART

    async def test_another_gateways_lease_is_not_extended(self, world: World) -> None:
        await world.fund(10 * USD)
        lease = (await world.lease(1))["lease_id"]
        answer = await world.lease(1, lease_id=lease, gateway=SECOND.identity)
        assert answer["lease_id"] != lease

    async def test_anothers_key_does_not_extend_a_lease(self, world: World) -> None:
        await world.fund(10 * USD)
        await world.fund(10 * USD, account="bob", key_hash="cd" * 32, opening_id="second")
        lease = (await world.lease(1))["lease_id"]
        answer = await world.lease(1, lease_id=lease, key_hash="cd" * 32)
        assert answer["account"] == "bob"
        assert answer["lease_id"] != lease


class TestRefusals:
    async def test_an_unknown_key_is_refused(self, world: World) -> None:
        assert await world.lease(1) == {"error": "unknown_key"}

    async def test_a_gateway_outside_the_charter_is_refused(self, world: World) -> None:
        await world.fund()
        answer = await world.lease(1, gateway=ToyKey("stranger").identity)
        assert answer == {"error": "unknown_gateway"}

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"[]",
            b"\xff",
            b'{"gateway":"g"}',
            json.dumps(
                {"gateway": "g", "key_hash": KEY_HASH, "lease_id": "", "need_nano": -1}
            ).encode(),
            json.dumps(
                {"gateway": "g", "key_hash": KEY_HASH, "lease_id": "", "need_nano": 2**60}
            ).encode(),
            json.dumps(
                {"gateway": "g", "key_hash": KEY_HASH, "lease_id": "", "need_nano": 1.5}
            ).encode(),
        ],
    )
    async def test_a_malformed_question_is_answered_with_an_error(
        self, world: World, data: bytes
    ) -> None:
        assert json.loads(await world.ledger.answer_lease(data)) == {"error": "malformed"}

    async def test_a_key_that_is_no_hash_is_unknown(self, world: World) -> None:
        assert await world.lease(1, key_hash="sk-penstock-plain") == {"error": "unknown_key"}

    async def test_an_endless_question_is_refused(self, world: World) -> None:
        answer = json.loads(await world.ledger.answer_lease(b"x" * 10_000))
        assert answer == {"error": "too_large"}


class TestClosing:
    async def test_closing_gives_back_what_is_left_once(self, world: World) -> None:
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease), closing_event(lease))
        await world.take(closing_event(lease))
        balance = await world.balance("payer/ann")
        assert (balance.posted_nano, balance.held_nano) == (USD - CHARGE, 0)

    async def test_closing_a_lease_nobody_knows_changes_nothing(self, world: World) -> None:
        await world.leased()
        await world.take(closing_event("l-" + "9" * 32))
        assert await held(world) == PART

    async def test_a_restarted_gateway_gives_back_all_its_old_leases(self, world: World) -> None:
        await world.fund(10 * USD)
        await world.lease(1)
        await world.lease(1)
        other = await world.lease(1, gateway=SECOND.identity)
        everything = closing_event("*", gateway=GATEWAY.identity, at_ms=world.clock.at_ms)
        await world.take(everything)
        assert await held(world) == other["granted_nano"]

    async def test_leases_of_the_new_life_stay_when_the_word_of_the_old_one_comes_late(
        self, world: World
    ) -> None:
        await world.fund(10 * USD)
        await world.lease(1)
        restarted_ms = world.clock.at_ms + 10
        world.clock.pass_ms(20)
        fresh = await world.lease(1)
        await world.take(closing_event("*", gateway=GATEWAY.identity, at_ms=restarted_ms))
        assert await held(world) == fresh["granted_nano"]
        await world.take(record_event(record(), lease_id=fresh["lease_id"]))
        assert (await world.everyone())["payer"] == 10 * USD - CHARGE

    async def test_without_a_time_all_of_a_gateways_leases_are_closed(self, world: World) -> None:
        await world.leased()
        await world.take(closing_event("*", gateway=GATEWAY.identity))
        assert await held(world) == 0

    async def test_records_before_the_closing_in_one_batch_are_still_paid(
        self, world: World
    ) -> None:
        lease = await world.leased()
        await world.take(
            record_event(record(1), lease_id=lease),
            closing_event("*", gateway=GATEWAY.identity),
            record_event(record(2), lease_id=lease),
        )
        assert (await world.everyone())["payer"] == USD - CHARGE
        assert world.fate("operator_paid") == 1

    @pytest.mark.parametrize(
        "body",
        [
            {"lease_id": "*", "close": True},
            {"lease_id": "l-1", "close": True},
            {"lease_id": "l-" + "0" * 32, "close": False},
            {"lease_id": "l-" + "0" * 32},
            {"lease_id": 5, "close": True},
        ],
    )
    async def test_a_malformed_closing_is_rejected(
        self, world: World, body: dict[str, Any]
    ) -> None:
        await world.take(("events.lease.gw", body))
        assert world.rejected("malformed") == 1


class TestExpiry:
    async def test_a_lost_gateways_lease_comes_back_after_expiry_and_grace(
        self, world: World
    ) -> None:
        await world.leased()
        await world.step(PARAMS.lease_ttl_ms + PARAMS.claim_grace_ms - 1)
        assert await held(world) == PART
        await world.step(1)
        assert await held(world) == 0

    async def test_a_renewed_lease_does_not_expire(self, world: World) -> None:
        lease = await world.leased()
        await world.step(PARAMS.lease_ttl_ms - 1)
        await world.lease(0, lease_id=lease)
        await world.step(PARAMS.claim_grace_ms + 1)
        assert await held(world) == PART

    async def test_nothing_expires_while_the_ledger_is_behind(self, world: World) -> None:
        lease = await world.leased()
        world.quiet()
        world.clock.pass_ms(10 * PARAMS.lease_ttl_ms)
        await world.ledger.upkeep.step()
        assert await held(world) == PART
        await world.take(record_event(record(), lease_id=lease))
        assert (await world.everyone())["payer"] == USD - CHARGE

    async def test_nothing_expires_before_the_first_quiet_moment_of_a_life(
        self, world: World
    ) -> None:
        await world.leased()
        await world.start()
        world.clock.pass_ms(10 * PARAMS.lease_ttl_ms)
        await world.ledger.upkeep.step()
        assert await held(world) == PART

    async def test_a_charge_that_comes_after_all_that_is_the_operators(self, world: World) -> None:
        lease = await world.leased()
        await world.step(PARAMS.lease_ttl_ms + PARAMS.claim_grace_ms)
        await world.take(record_event(record(), lease_id=lease))
        assert (await world.everyone())["payer"] == USD
        assert world.fate("operator_paid") == 1


async def test_a_gateway_that_left_the_charter_gets_no_more_leases(world: World) -> None:
    await world.leased()
    said = from_plain(Charter, world.charter.body)
    world.charter = sign("charter", replace(said, gateways=(SECOND.identity,)), OPERATOR_KEY)
    await world.start()
    assert await world.lease(1) == {"error": "unknown_gateway"}

"""Records: judged, logged and paid once, whatever comes in and however often."""

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.makers import GATEWAY, MANIFEST, MINER, OWNER, ToyKey, make_order, make_receipt
from tests.stations.ledger.makers_ledger import (
    CHARGE,
    MARKET,
    PARAMS,
    USD,
    World,
    closing_event,
    failed,
    order_id,
    posted_sum,
    record,
    record_event,
    unseen,
    word_event,
)

from penstock.spec.books import pool_part
from penstock.spec.canon import to_plain
from penstock.spec.entries import EntryKind, parse_leaf
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Roll, Targets, chute_id
from penstock.spec.pricing import split_charge
from penstock.spec.receipts import Record

FEES = split_charge(CHARGE, PARAMS.fees)
DEEP = b'{"record":' + b"[" * 100_000


@pytest.fixture
async def world() -> World:
    return await World().start()


async def kinds(world: World) -> list[str]:
    return [one.kind.value for one in await world.store.entries(0, count=100)]


class TestPaying:
    async def test_a_complete_record_is_paid_by_its_payer_and_split(self, world: World) -> None:
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease))
        everyone = await world.everyone()
        assert everyone["payer"] == USD - CHARGE
        assert everyone["miner"] == FEES.miner_nano
        assert everyone["operator"] == FEES.operator_nano
        assert everyone["pool"] == FEES.pool_nano
        assert posted_sum(everyone) == 0

    async def test_a_record_is_logged_with_its_row(self, world: World) -> None:
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease))
        logged = await world.store.entry((EntryKind.RECORD, order_id(1)))
        assert logged is not None
        assert logged.row is not None
        assert (logged.row.miner, logged.row.charge_nano) == (MINER.identity, CHARGE)
        assert parse_leaf(logged.leaf).body == to_plain(record())

    async def test_a_record_seen_twice_is_charged_once(self, world: World) -> None:
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease))
        await world.take(record_event(record(), lease_id=lease))
        assert (await world.everyone())["payer"] == USD - CHARGE
        assert (world.fate("posted"), world.fate("duplicate")) == (1, 1)

    async def test_a_record_twice_in_one_batch_is_charged_once(self, world: World) -> None:
        lease = await world.leased()
        event = record_event(record(), lease_id=lease)
        await world.take(event, event)
        assert (await world.everyone())["payer"] == USD - CHARGE
        assert world.fate("duplicate") == 1

    async def test_records_of_one_lease_add_up(self, world: World) -> None:
        lease = await world.leased()
        await world.take(*(record_event(record(n), lease_id=lease) for n in range(5)))
        assert (await world.everyone())["payer"] == USD - 5 * CHARGE
        assert (await world.balance("payer/ann")).held_nano == USD // 4 - 5 * CHARGE

    async def test_records_in_another_order_give_the_same_balances(self) -> None:
        seen = []
        for numbers in ([1, 2, 3], [3, 1, 2]):
            world = await World().start()
            lease = await world.leased()
            for number in numbers:
                await world.take(record_event(record(number), lease_id=lease))
            seen.append(await world.everyone())
        assert seen[0] == seen[1]

    async def test_a_failed_order_costs_nothing_and_is_logged(self, world: World) -> None:
        lease = await world.leased()
        await world.take(record_event(failed(), lease_id=lease))
        everyone = await world.everyone()
        assert (everyone["payer"], everyone["miner"]) == (USD, 0)
        assert (await kinds(world))[-1] == "record"

    async def test_what_is_left_of_a_lease_comes_back_when_it_is_closed(self, world: World) -> None:
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease), closing_event(lease))
        balance = await world.balance("payer/ann")
        assert (balance.held_nano, balance.free_nano) == (0, USD - CHARGE)


class TestTheOperatorPays:
    async def assert_operator_paid(self, world: World, *, funds_nano: int = USD) -> None:
        """The miner and the pool have their parts; the payer has paid nothing."""
        everyone = await world.everyone()
        assert everyone["payer"] == funds_nano
        assert everyone["miner"] == FEES.miner_nano
        assert everyone["pool"] == FEES.pool_nano
        assert posted_sum(everyone) == 0

    async def test_a_charge_under_a_closed_lease_is_the_operators(self, world: World) -> None:
        lease = await world.leased()
        await world.take(closing_event(lease), record_event(record(), lease_id=lease))
        await self.assert_operator_paid(world)

    async def test_a_charge_under_an_unknown_lease_is_the_operators(self, world: World) -> None:
        await world.leased()
        await world.take(record_event(record()))
        await self.assert_operator_paid(world)
        assert world.fate("operator_paid") == 1

    async def test_a_charge_above_what_is_left_is_the_operators(self, world: World) -> None:
        lease = await world.leased(CHARGE - 1)
        await world.take(record_event(record(), lease_id=lease))
        await self.assert_operator_paid(world, funds_nano=CHARGE - 1)

    async def test_a_charge_on_anothers_lease_is_the_operators(self, world: World) -> None:
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease, account="bob"))
        await self.assert_operator_paid(world)

    async def test_an_operator_without_money_is_advanced_it_by_the_mint(self, world: World) -> None:
        await world.take(record_event(record()))
        everyone = await world.everyone()
        assert everyone["miner"] == FEES.miner_nano
        assert everyone["operator"] == 0
        assert everyone["mint"] == -(CHARGE - FEES.operator_nano)

    async def test_an_operator_with_money_pays_from_it_first(self, world: World) -> None:
        lease = await world.leased()
        await world.take(*(record_event(record(n), lease_id=lease) for n in range(1, 20)))
        before = await world.everyone()
        await world.take(record_event(record(30)))
        after = await world.everyone()
        assert after["mint"] == before["mint"]
        assert after["operator"] == before["operator"] - CHARGE + FEES.operator_nano

    async def test_a_record_the_gateway_never_countersigned_pays_the_miners_part_alone(
        self, world: World
    ) -> None:
        await world.take(record_event(unseen()))
        everyone = await world.everyone()
        assert everyone["miner"] == FEES.miner_nano
        assert everyone["pool"] == 0
        assert everyone["mint"] == -FEES.miner_nano

    async def test_the_epochs_pool_is_the_sum_of_the_rows_pool_parts(self, world: World) -> None:
        lease = await world.leased()
        await world.take(
            record_event(record(1), lease_id=lease),
            record_event(record(2)),
            record_event(unseen(3)),
        )
        entries = await world.store.entries(0, count=100)
        rows = [one.row for one in entries if one.row is not None]
        number = (await world.ledger.epochs())["epoch"]
        state = await world.store.epoch(number)
        assert state is not None
        assert state.pool_nano == sum(pool_part(row.charge_nano, PARAMS.fees) for row in rows)
        assert state.pool_nano == await world.posted("pool")


class TestDisputes:
    async def test_another_record_of_one_order_is_logged_and_moves_no_money(
        self, world: World
    ) -> None:
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease))
        before = await world.everyone()
        await world.take(record_event(record(ttft_us=1), lease_id=lease))
        assert (await kinds(world))[-1] == "dispute"
        assert await world.everyone() == before
        assert world.fate("disputed") == 1

    async def test_the_same_dispute_again_is_logged_once(self, world: World) -> None:
        other = record_event(record(ttft_us=1))
        await world.take(record_event(record()), other, other)
        await world.take(other)
        assert (await kinds(world)).count("dispute") == 1

    async def test_different_disputes_of_one_order_are_all_logged(self, world: World) -> None:
        await world.take(
            record_event(record()),
            record_event(record(ttft_us=1)),
            record_event(record(ttft_us=2)),
        )
        assert (await kinds(world)).count("dispute") == 2


def forged(said: Record, part: str, **changes: Any) -> Record:
    """The same record with a changed body under the old signature."""
    signed: Signed = getattr(said, part)
    changed: dict[str, Any] = {part: replace(signed, body={**signed.body, **changes})}
    return replace(said, **changed)


class TestRejections:
    @pytest.mark.parametrize(
        "said",
        [
            forged(record(), "order", charge_max=1),
            forged(record(), "receipt", charge_nano=1),
            forged(record(), "countersign", charge_nano=1),
            replace(record(), receipt=record(2).receipt),
            replace(record(), countersign=record(2).countersign),
            replace(record(), receipt=None, countersign=None),
            replace(record(), order=replace(record().order, kind="offer")),
        ],
    )
    async def test_a_record_that_does_not_hold_changes_nothing(
        self, world: World, said: Record
    ) -> None:
        lease = await world.leased()
        before = await world.everyone()
        await world.take(record_event(said, lease_id=lease))
        assert await world.everyone() == before
        assert world.rejected("refused") == 1
        assert world.acked == ["events.record.gw"]

    async def test_a_gateway_outside_the_charter_is_nobody(self, world: World) -> None:
        stranger = ToyKey("stranger")
        order = make_order(gateway=stranger.identity, order_id=order_id(1))
        said = Record(
            order=sign("order", order, stranger),
            receipt=sign("receipt", make_receipt(order), MINER),
            checkpoint=None,
            countersign=None,
        )
        await world.take(record_event(said))
        assert world.rejected("unknown_gateway") == 1

    @pytest.mark.parametrize("name", ["o-1", "o-" + "G" * 32, "close/1", ""])
    async def test_an_order_id_of_another_form_is_refused(self, world: World, name: str) -> None:
        order = make_order(order_id=name)
        said = Record(
            order=sign("order", order, GATEWAY),
            receipt=sign("receipt", make_receipt(order), MINER),
            checkpoint=None,
            countersign=None,
        )
        await world.take(record_event(said))
        assert world.rejected("bad_order_id") == 1

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"null",
            b"\xff\xfe",
            b"{}",
            DEEP,
            b'{"record":{},"account":"ann","lease_id":"l-1"}',
            b'{"record":{"order":1},"account":"ann","lease_id":"l-' + b"0" * 32 + b'"}',
            json.dumps({**record_event(record())[1], "more": 1}).encode(),
            json.dumps({**record_event(record())[1], "account": "../x y"}).encode(),
            json.dumps({**record_event(record())[1], "lease_id": "*"}).encode(),
        ],
    )
    async def test_malformed_bytes_are_counted_and_acknowledged(
        self, world: World, data: bytes
    ) -> None:
        await world.take(("events.record.gw", data))
        assert world.rejected("malformed") + world.rejected("too_large") == 1
        assert world.acked == ["events.record.gw"]

    async def test_fractions_in_a_record_are_refused(self, world: World) -> None:
        said = to_plain(record())
        said["receipt"]["body"]["charge_nano"] = 1.5
        body = {"record": said, "account": "ann", "lease_id": "l-" + "0" * 32}
        await world.take(("events.record.gw", body))
        assert world.rejected("refused") == 1

    async def test_an_endless_event_is_refused(self, world: World) -> None:
        await world.take(("events.record.gw", b"x" * (1 << 21)))
        await world.take(("events.record.gw", b"x" * (1 << 17)))
        assert world.rejected("too_large") == 2

    async def test_a_subject_nobody_knows_is_refused(self, world: World) -> None:
        await world.take(("events.other", {}))
        assert world.rejected("unknown_subject") == 1

    async def test_bad_events_do_not_keep_good_ones_from_being_posted(self, world: World) -> None:
        lease = await world.leased()
        await world.take(
            ("events.record.gw", b"junk"),
            record_event(record(), lease_id=lease),
            record_event(forged(record(2), "order", seed=9), lease_id=lease),
        )
        assert (await world.everyone())["payer"] == USD - CHARGE
        assert len(world.acked) == 3

    async def test_records_that_come_in_one_message_are_posted_one_by_one(
        self, world: World
    ) -> None:
        lease = await world.leased()
        batch = [record_event(record(number), lease_id=lease)[1] for number in (1, 2)]
        bad = record_event(forged(record(3), "order", seed=9), lease_id=lease)[1]
        await world.take(("events.record.gw", {"records": [batch[0], bad, batch[1]]}))
        assert (await world.everyone())["payer"] == USD - 2 * CHARGE
        assert world.rejected("refused") == 1
        assert world.acked == ["events.record.gw"]

    async def test_a_message_with_too_many_records_is_refused_whole(self, world: World) -> None:
        before = await world.everyone()
        await world.take(("events.record.gw", {"records": [{}] * 65}))
        await world.take(("events.record.gw", b'{"records":{}}'))
        await world.take(("events.record.gw", b'{"records":' + b" " * (1 << 20) + b"[]}"))
        assert world.rejected("too_large") == 2
        assert world.rejected("malformed") == 1
        assert await world.everyone() == before


def targets(key: ToyKey = MARKET, epoch: int = 1) -> Signed:
    return sign("targets", Targets(epoch=epoch, targets=()), key)


class TestTheMarketsWords:
    async def test_manifests_targets_and_rolls_are_logged(self, world: World) -> None:
        roll = sign("roll", Roll(epoch=1, presences=(), bounties=()), MARKET)
        await world.take(
            word_event("manifest", chute_id(MANIFEST), sign("manifest", MANIFEST, OWNER)),
            word_event("targets", "targets/1", targets()),
            word_event("roll", "roll/1", roll),
        )
        assert (await kinds(world))[1:] == ["manifest", "targets", "roll"]
        assert world.fate("logged") == 3

    async def test_a_word_said_twice_is_logged_once(self, world: World) -> None:
        event = word_event("targets", "targets/1", targets())
        await world.take(event, event)
        await world.take(event)
        assert (await kinds(world)).count("targets") == 1

    async def test_one_id_for_two_words_is_refused(self, world: World) -> None:
        await world.take(word_event("targets", "t", targets()))
        await world.take(word_event("targets", "t", targets(epoch=2)))
        assert world.rejected("id_reused") == 1
        assert (await kinds(world)).count("targets") == 1

    async def test_only_the_market_states_targets(self, world: World) -> None:
        await world.take(word_event("targets", "t", targets(ToyKey("stranger"))))
        assert world.rejected("not_the_market") == 1

    async def test_only_its_owner_states_a_manifest(self, world: World) -> None:
        signed = sign("manifest", MANIFEST, MARKET)
        await world.take(word_event("manifest", "m", signed))
        assert world.rejected("refused") == 1

    @pytest.mark.parametrize("kind", ["charter", "record", "close", "settlement", "report", "x"])
    async def test_the_market_cannot_log_what_is_not_its_own(self, world: World, kind: str) -> None:
        await world.take(word_event(kind, "t", targets()))
        assert world.rejected("malformed") == 1

    async def test_a_forged_word_is_refused(self, world: World) -> None:
        signed = replace(targets(), body={"epoch": 2, "targets": []})
        await world.take(word_event("targets", "t", signed))
        assert world.rejected("refused") == 1

    @pytest.mark.parametrize("name", ["", "a b", "x" * 300, "\n"])
    async def test_an_entry_id_is_printable_and_short(self, world: World, name: str) -> None:
        await world.take(word_event("targets", name, targets()))
        assert world.rejected("malformed") == 1

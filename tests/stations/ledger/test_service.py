"""What one can ask of the ledger: accounts, balances, receipts with proofs, files; and its life."""

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import GATEWAY, MINER, ToyKey
from tests.stations.ledger.makers_ledger import (
    CHARGE,
    KEY,
    LOG_KEY,
    ORIGIN,
    PARAMS,
    USD,
    World,
    closing_event,
    opening,
    order_id,
    record,
    record_event,
    word_event,
)

from penstock.kit.keys import verify_raw
from penstock.kit.ports import StoreDown
from penstock.kit.tasks import Scope
from penstock.ledger.intake import record_leaf
from penstock.ledger.notary import Notary, frontier_keys, proof_keys
from penstock.ledger.state import View, Wanted
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.canon import to_plain
from penstock.spec.entries import Entry, EntryKind, leaf_bytes
from penstock.spec.errors import BadProof
from penstock.spec.keys import Signed, sign
from penstock.spec.log import Frontier, check_inclusion, leaf_hash
from penstock.spec.notes import parse_note, verify_checkpoint
from penstock.spec.receipts import parse_record

DEADLINE_S = 60
BEARER = f"Bearer {KEY}"


@pytest.fixture
async def world() -> World:
    return await World().start()


async def opened(world: World, signed: Signed) -> tuple[int, Any]:
    return await world.call("POST", "/v1/accounts", to_plain(signed))


class TestAccounts:
    async def test_an_opening_binds_the_key_and_adds_the_credit(self, world: World) -> None:
        assert await opened(world, opening()) == (200, {"account": "ann", "available_nano": USD})
        said = {"account": "ann", "available_nano": USD, "held_nano": 0}
        assert await world.get("/v1/balance", authorization=BEARER) == (200, said)

    async def test_an_opening_said_twice_adds_once(self, world: World) -> None:
        await opened(world, opening())
        assert (await opened(world, opening()))[1]["available_nano"] == USD

    async def test_a_second_opening_tops_up(self, world: World) -> None:
        await opened(world, opening())
        again = opening(opening_id="second", credit_nano=5)
        assert (await opened(world, again))[1]["available_nano"] == USD + 5

    async def test_one_opening_id_for_two_credits_is_a_conflict(self, world: World) -> None:
        await opened(world, opening())
        status, answer = await opened(world, opening(credit_nano=7))
        assert (status, answer["error"]["code"]) == (409, "opening_reused")
        assert (await world.everyone())["payer"] == USD

    async def test_a_key_belongs_to_one_account(self, world: World) -> None:
        await opened(world, opening())
        status, answer = await opened(world, opening(account="bob", opening_id="second"))
        assert (status, answer["error"]["code"]) == (409, "key_taken")
        assert await world.posted("payer/bob") == 0

    async def test_an_account_may_have_several_keys(self, world: World) -> None:
        await opened(world, opening())
        await opened(world, opening(key_hash="cd" * 32, opening_id="second", credit_nano=0))
        assert (await world.lease(1, key_hash="cd" * 32))["account"] == "ann"

    async def test_only_the_operator_opens_accounts(self, world: World) -> None:
        signed = sign("account", opening().body, ToyKey("stranger"))
        status, answer = await opened(world, signed)
        assert (status, answer["error"]["code"]) == (403, "not_the_operator")
        assert (await world.everyone())["payer"] == 0

    async def test_a_senseless_opening_is_refused(self, world: World) -> None:
        status, answer = await opened(world, opening(credit_nano=-5))
        assert (status, answer["error"]["code"]) == (400, "bad_opening")

    @pytest.mark.parametrize(
        ("body", "status"), [(b"{", 400), (b"[]", 422), (b"{}", 422), (b"\xff", 400)]
    )
    async def test_a_body_that_is_no_signed_message_is_refused(
        self, world: World, body: bytes, status: int
    ) -> None:
        assert (await world.call("POST", "/v1/accounts", body))[0] == status

    @pytest.mark.parametrize("header", ["", "Bearer ", "Bearer sk-penstock-other", "Basic x"])
    async def test_a_balance_is_told_to_its_key_only(self, world: World, header: str) -> None:
        await opened(world, opening())
        status, answer = await world.get("/v1/balance", authorization=header)
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")

    async def test_a_balance_tells_what_is_held(self, world: World) -> None:
        await world.fund(PARAMS.lease_amount_nano + 5)
        await world.lease(PARAMS.lease_amount_nano)
        answer = (await world.get("/v1/balance", authorization=BEARER))[1]
        assert (answer["available_nano"], answer["held_nano"]) == (5, PARAMS.lease_amount_nano)


def check_receipt_body(answer: dict[str, Any]) -> None:
    """What a client does with a receipt: the record is in the log that the note commits to."""
    checkpoint = verify_checkpoint(
        parse_note(answer["checkpoint"].encode()),
        ORIGIN,
        public_key=LOG_KEY.public_key,
        verify_raw=verify_raw,
    )
    assert checkpoint.size == answer["size"]
    said = parse_record(answer["record"])
    name = str(said.order.body["order_id"])
    leaf = leaf_bytes(Entry(kind=EntryKind.RECORD, entry_id=name, body=to_plain(said)))
    check_inclusion(
        leaf_hash(leaf),
        answer["seq"],
        size=checkpoint.size,
        proof=[bytes.fromhex(one) for one in answer["proof"]],
        expected=checkpoint.root,
    )


class TestReceipts:
    async def test_every_logged_record_comes_with_a_proof_that_holds(self, world: World) -> None:
        for number in range(13):
            await world.take(record_event(record(number)))
            for earlier in range(number + 1):
                status, answer = await world.get(f"/v1/receipts/{order_id(earlier)}")
                assert status == 200
                check_receipt_body(answer)

    async def test_a_proof_of_another_record_does_not_hold(self, world: World) -> None:
        await world.take(*(record_event(record(number)) for number in range(3)))
        answer = (await world.get(f"/v1/receipts/{order_id(1)}"))[1]
        with pytest.raises(BadProof):
            check_receipt_body({**answer, "record": to_plain(record(2))})

    @pytest.mark.parametrize("name", [order_id(1), "x", "close%2F1", "o-" + "G" * 32])
    async def test_an_unknown_order_is_not_found(self, world: World, name: str) -> None:
        status, answer = await world.get(f"/v1/receipts/{name}")
        assert (status, answer["error"]["code"]) == (404, "receipt_not_found")

    async def test_the_bus_answers_with_the_same_body(self, world: World) -> None:
        await world.take(record_event(record()))
        question = json.dumps({"order_id": order_id(1)}).encode()
        answer = json.loads(await world.ledger.answer_receipt(question))
        assert answer == (await world.get(f"/v1/receipts/{order_id(1)}"))[1]

    @pytest.mark.parametrize(
        ("question", "error"),
        [(b"{}", "not_found"), (b"{", "malformed"), (b'{"order_id":5}', "malformed")],
    )
    async def test_the_bus_answers_what_it_cannot_find(
        self, world: World, question: bytes, error: str
    ) -> None:
        assert json.loads(await world.ledger.answer_receipt(question)) == {"error": error}


class TestReading:
    async def test_earnings_are_told_to_everyone(self, world: World) -> None:
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease))
        status, answer = await world.get(f"/v1/earnings/{MINER.identity}")
        assert status == 200
        earned = (await world.everyone())["miner"]
        assert answer == {"identity": MINER.identity, "earned_nano": earned}

    async def test_what_is_no_identity_has_no_earnings(self, world: World) -> None:
        assert (await world.get("/v1/earnings/operator"))[1]["error"]["code"] == "bad_identity"

    async def test_published_files_are_served(self, world: World) -> None:
        number = await world.end_epoch()
        status, about = await world.get(f"/files/epochs/{number:08d}/epoch.json")
        assert (status, about["epoch"]) == (200, number)
        note = (await world.get("/files/checkpoint"))[1]
        assert parse_note(note).text.startswith(ORIGIN)
        segment = (await world.get(f"/files/epochs/{number:08d}/segment.parquet"))[1]
        assert segment[:4] == b"PAR1"

    @pytest.mark.parametrize("name", ["nothing", "../secret", "%2e%2e/secret", "a//b", ""])
    async def test_other_names_are_not_found(self, world: World, name: str) -> None:
        status, answer = await world.get(f"/files/{name}")
        assert (status, answer["error"]["code"]) == (404, "file_not_found")

    async def test_metrics_are_served(self, world: World) -> None:
        await world.take(record_event(record()))
        assert b'ledger_arrivals_total{fate="operator_paid"} 1' in (await world.get("/metrics"))[1]


class LostStore(MemoryLedgerStore):
    """A store that can go away."""

    is_down = False

    async def view(self, wanted: Wanted) -> View:
        if self.is_down:
            raise StoreDown("away")
        return await super().view(wanted)


async def test_a_lost_store_is_said_so_and_nothing_else_breaks() -> None:
    store = LostStore()
    world = await World(store=store).start()
    store.is_down = True
    status, answer = await world.get("/v1/epochs")
    assert (status, answer["error"]["code"]) == (503, "store_down")
    assert await world.lease(1) == {"error": "store_down"}
    assert (await world.get("/health"))[0] == 200
    store.is_down = False
    assert (await world.get("/v1/epochs"))[0] == 200


async def test_upkeep_waits_for_a_lost_store_and_goes_on_with_its_next_tick() -> None:
    """An outage is no crash: a supervisor's growing pauses would keep epochs open long after it."""
    store = LostStore()
    world = await World(store=store).start()
    store.is_down = True
    async with Scope() as scope:
        running = scope.start("upkeep", world.ledger.upkeep.run())
        while not running.done() and not world.ledger.metrics.value("ledger_store_down_total"):
            await asyncio.sleep(0)
        assert not running.done()
        scope.cancel()


class TestRunning:
    """The loops, over the bus."""

    async def test_events_and_questions_of_the_bus_are_served(self, world: World) -> None:
        await world.fund()
        task = asyncio.ensure_future(world.ledger.run())
        try:
            async with asyncio.timeout(DEADLINE_S):
                lease = await self.ask_lease(world)
                subject, body = record_event(record(), lease_id=lease["lease_id"])
                raw = json.dumps(body).encode()
                await world.bus.publish(subject, raw, event_id=order_id(1))
                await self.publish(world, closing_event(lease["lease_id"]), "close")
                while (await world.balance("payer/ann")).free_nano != USD - CHARGE:
                    await asyncio.sleep(0.01)
                while world.ledger.consumer.quiet_ms < 0:
                    await asyncio.sleep(0.01)
                assert b"test.example" in world.files.read("operator.json")
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_a_ledger_that_was_away_takes_in_what_waited(self, world: World) -> None:
        for number in range(300):
            await self.publish(world, record_event(record(number)), order_id(number))
        await self.publish(world, ("events.record.gw", b"junk"), "junk")
        task = asyncio.ensure_future(world.ledger.run())
        try:
            async with asyncio.timeout(DEADLINE_S):
                while (await world.ledger.epochs())["log_size"] < 301 or not world.rejected(
                    "malformed"
                ):
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert world.fate("operator_paid") == 300

    async def ask_lease(self, world: World) -> dict[str, Any]:
        from tests.stations.ledger.makers_ledger import KEY_HASH

        question = {"gateway": GATEWAY.identity, "key_hash": KEY_HASH, "need_nano": 1}
        raw = json.dumps({**question, "lease_id": ""}).encode()
        while True:
            try:
                answer = await world.bus.ask("ledger.lease", raw, deadline_ms=500)
            except Exception:  # noqa: BLE001 - not yet served
                await asyncio.sleep(0.01)
                continue
            found: dict[str, Any] = json.loads(answer)
            return found

    async def publish(
        self, world: World, event: tuple[str, dict[str, Any] | bytes], event_id: str
    ) -> None:
        subject, body = event
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        await world.bus.publish(subject, raw, event_id=event_id)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcxyzABC_09", max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


class TestSpelling:
    @given(body=st.dictionaries(st.text("abcxyzABC_09"), PLAIN, max_size=4))
    def test_the_fast_spelling_of_a_leaf_is_the_canonical_one(self, body: dict[str, Any]) -> None:
        slow = leaf_bytes(Entry(kind=EntryKind.RECORD, entry_id=order_id(1), body=body))
        assert record_leaf(order_id(1), body) == slow

    def test_every_character_below_u3000_is_spelled_canonically(self) -> None:
        body = {f"k{point}": f"a{chr(point)}b" for point in range(0x3000)}
        slow = leaf_bytes(Entry(kind=EntryKind.RECORD, entry_id=order_id(1), body=body))
        assert record_leaf(order_id(1), body) == slow


class TestNotary:
    @given(size=st.integers(1, 200), data=st.data())
    def test_keys_name_complete_subtrees_of_the_log_only(self, size: int, data: Any) -> None:
        seq = data.draw(st.integers(0, size - 1))
        for level, index in [*frontier_keys(size), *proof_keys(seq, size)]:
            assert (index + 1) << level <= size

    @given(size=st.integers(0, 300))
    def test_a_frontier_has_one_subtree_per_bit_and_covers_the_log(self, size: int) -> None:
        keys = frontier_keys(size)
        assert len(keys) == size.bit_count()
        assert sum(1 << level for level, _ in keys) == size

    async def test_a_frontier_of_any_earlier_size_is_found_again(self) -> None:
        world = await World().start()
        seen: list[Frontier] = [(await world.store.view(Wanted())).frontier]
        for number in range(20):
            await world.take(record_event(record(number)))
            seen.append((await world.store.view(Wanted())).frontier)
        for frontier in seen:
            assert await world.ledger.notary.frontier_at(frontier.size) == frontier

    async def test_a_checkpoint_is_signed_once_per_state(self, world: World) -> None:
        notary = Notary(ORIGIN, key=LOG_KEY, log=world.store)
        frontier = (await world.store.view(Wanted())).frontier
        assert notary.checkpoint(frontier) is notary.checkpoint(frontier)

    def test_nothing_is_proven_in_an_empty_log(self) -> None:
        with pytest.raises(BadProof):
            proof_keys(0, 0)


async def test_epochs_tell_where_the_market_stands(world: World) -> None:
    about = (await world.get("/v1/epochs"))[1]
    start = world.clock.at_ms // PARAMS.epoch_ms
    assert about == {"epoch": start, "closed": -1, "settled": -1, "log_size": 1}


async def test_a_manifest_of_the_bus_is_in_the_published_segment(world: World) -> None:
    from tests.makers import MANIFEST, OWNER

    from penstock.spec.messages import chute_id

    event = word_event("manifest", chute_id(MANIFEST), sign("manifest", MANIFEST, OWNER))
    await world.take(event)
    number = await world.end_epoch()
    about = world.file(f"epochs/{number:08d}/epoch.json")
    assert about["count"] == 3
    assert base64.b64decode(about["checkpoint"].split("\n")[2])

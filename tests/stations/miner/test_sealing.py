"""Seals are exchanged once, or as often as asked; what is proven is never lost, what is not is never
claimed, and a gateway that does not seal is trusted with less.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.makers import GATEWAY, ToyKey
from tests.stations.miner.gate import Gate, Vouched, judged
from tests.stations.miner.scripted_engine import chunk, streaming
from tests.stations.miner.test_seal_table import Bench
from tests.stations.miner.test_sessions import OTHER, ready_gate, with_two_gateways
from tests.stations.miner.world import World, chat_body, playing

from penstock.miner.session_pages import SEALS_BYTES_MAX
from penstock.spec.messages import Order

BODY = chat_body()


async def served(gate: Gate, count: int = 1) -> list[Vouched]:
    """So many answered orders, none of them sealed."""
    return [await gate.call(BODY) for _ in range(count)]


def ids(answers: Sequence[Vouched]) -> list[str]:
    return [one.order.order_id for one in answers]


def orders_of(answers: Sequence[Vouched]) -> list[Order]:
    return [one.order for one in answers]


class TestExchange:
    def test_one_seal_each_way_makes_records_of_a_whole_batch(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answers = await served(gate, 5)
            given = await gate.seal(orders_of(answers), ids(answers)[::-1])
            assert given["orders_known"] == 5
            records = gate.records(answers, orders_of(answers), given)
            assert [judged(one).earned_nano for one in records] == [
                one.receipt.charge_nano for one in answers
            ]

        playing(scenario)

    def test_seals_are_given_again_for_any_part_of_the_batch(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answers = await served(gate, 3)
            first = await gate.seal(orders_of(answers), ids(answers))
            assert await gate.seal(orders_of(answers), ids(answers)) == first
            part = await gate.seal([], ids(answers)[1:2])
            assert part["receipts"]["order_ids"] == ids(answers)[1:2]
            (record,) = gate.records(answers[1:2], orders_of(answers), part)
            judged(record)

        playing(scenario)

    def test_a_receipt_is_not_sealed_before_its_order_is(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            early = await gate.seal([], ids([answer]))
            assert early == {"orders_known": 0, "receipts": None, "unknown": []}
            both = await gate.seal([answer.order], ids([answer]))
            assert both["unknown"] == []

        playing(scenario)

    def test_another_gateway_neither_seals_nor_gets_what_is_not_its_own(self) -> None:
        async def scenario(world: World) -> None:
            gate, other = await ready_gate(world), await ready_gate(world, OTHER)
            (answer,) = await served(gate)
            stolen = await other.seal([answer.order], ids([answer]))
            assert stolen == {"orders_known": 0, "receipts": None, "unknown": ids([answer])}
            # The true gateway's seal, brought by another one, is not that one's word.
            seals = gate.order_seals([answer.order])
            reply = await other.post("/v1/seals", other.seals_body(seals, []))
            assert reply.status == 400
            given = await gate.seal([answer.order], ids([answer]))
            assert given["orders_known"] == 1
            asked = await other.seal([], ids([answer]))
            assert asked["unknown"] == ids([answer])

        playing(scenario, prepare=with_two_gateways)

    def test_a_new_session_of_the_gateway_speaks_for_the_orders_of_the_old_one(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            await gate.open()
            given = await gate.seal([answer.order], ids([answer]))
            (record,) = gate.records([answer], [answer.order], given)
            judged(record)

        playing(scenario)

    def test_a_seal_over_other_digests_proves_nothing(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            first, second = await served(gate, 2)
            cheaper = replace(first.order, charge_max=first.order.charge_max - 1)
            assert (await gate.seal([cheaper], ids([first])))["orders_known"] == 0
            swapped = gate.order_seals([first.order, second.order])
            swapped["order_ids"].reverse()
            reply = await gate.post("/v1/seals", gate.seals_body(swapped, ids([first, second])))
            assert msgspec.json.decode(reply.body)["orders_known"] == 0
            assert (await gate.seal([first.order], ids([first])))["receipts"] is not None

        playing(scenario)

    def test_a_wrong_signature_of_the_root_changes_nothing(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            forged = gate.order_seals([answer.order], key=ToyKey("thief"))
            good = gate.order_seals([answer.order])
            nested = {**good, "root_signature": f"seal1.1.0..{good['root_signature']}"}
            for seals in (forged, nested, {**good, "root_signature": ""}):
                reply = await gate.post("/v1/seals", gate.seals_body(seals, ids([answer])))
                assert reply.status == 400
                assert msgspec.json.decode(reply.body)["error"]["code"] == "bad_seal"
            assert (await gate.seal([], ids([answer])))["receipts"] is None

        playing(scenario)

    def test_a_seal_that_overtakes_its_order_proves_it(self) -> None:
        """A large body takes longer on its way than the 50 ms after which its order is sealed."""

        async def scenario(world: World) -> None:
            gate, other = await ready_gate(world), await ready_gate(world, OTHER)
            order = gate.order(BODY)
            early = await gate.seal([order], [order.order_id])
            assert early == {"orders_known": 0, "receipts": None, "unknown": [order.order_id]}
            answer = await gate.place(order, BODY, headers=gate.headers(order))
            assert world.miner.parts.claims.sealing.unsealed == 0
            given = await gate.seal([], [order.order_id])
            (record,) = gate.records([answer], [order], given)
            assert judged(record).earned_nano > 0
            # One gateway's seal is nothing in the name of another.
            foreign = gate.order(BODY, gateway=GATEWAY.identity)
            await other.seal([foreign])
            await gate.place(foreign, BODY, headers=gate.headers(foreign))
            assert world.miner.parts.claims.sealing.unsealed == 1

        playing(scenario, prepare=with_two_gateways)

    def test_a_seal_that_comes_while_the_order_is_in_work_proves_it(self) -> None:
        hold = asyncio.Event()

        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gate.call(chat_body(stream=True)))
                await world.until(lambda: len(world.miner.parts.front.jobs))
                (job,) = world.miner.parts.front.jobs._jobs.values()
                early = await gate.seal([job.admitted.order], [job.admitted.order.order_id])
                assert early["orders_known"] == 1
                assert (early["receipts"], early["unknown"]) == (None, [])
                hold.set()
                answer = await task
            (line,) = [msgspec.json.decode(one) for one in world.store.load()]
            assert line["order"]["signature"].startswith("seal1.")
            assert (await gate.seal([], ids([answer])))["receipts"] is not None

        def prepare(world: World) -> None:
            world.scripted(streaming(chunk("a", finish="stop"), hold=hold))

        playing(scenario, prepare=prepare)


class TestRequests:
    def test_a_request_without_the_sessions_mac_is_refused(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            seals = gate.order_seals([answer.order])
            for changes, status, code in (
                ({"mac": "0" * 64}, 403, "bad_mac"),
                ({"mac": "\xe9"}, 403, "bad_mac"),
                ({"receipts": ["o-1"]}, 403, "bad_mac"),
                ({"orders": None}, 403, "bad_mac"),
                ({"session_id": "s-" + "0" * 32}, 401, "session_unknown"),
            ):
                body = gate.seals_body(seals, [], changes=changes)
                reply = await gate.post("/v1/seals", body)
                assert reply.status == status
                assert msgspec.json.decode(reply.body)["error"]["code"] == code
            assert world.miner.parts.claims.sealing.unsealed == 1

        playing(scenario)

    @pytest.mark.parametrize(
        ("orders", "receipts"),
        [
            ({"order_ids": [], "digests": [], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": [], "root_signature": "x"}, []),
            ({"order_ids": ["a", "b"], "digests": ["0" * 64], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": ["0" * 63], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": ["0" * 63 + "\n"], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": ["G" * 64], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": ["0" * 64], "root_signature": "x" * 601}, []),
            ({"order_ids": ["a"] * 65, "digests": ["0" * 64] * 65, "root_signature": "x"}, []),
            ({"order_ids": ["a" * 129], "digests": ["0" * 64], "root_signature": "x"}, []),
            (5, []),
            (None, ["a"] * 65),
            (None, [5]),
        ],
    )
    def test_a_request_of_another_shape_is_refused(self, orders: Any, receipts: Any) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            reply = await gate.post("/v1/seals", gate.seals_body(orders, receipts))
            assert reply.status == 400
            assert msgspec.json.decode(reply.body)["error"]["code"] == "bad_seal"

        playing(scenario)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 9_000, b'{"mac":1}'])
    def test_nonsense_is_refused(self, body: bytes) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            assert (await gate.post("/v1/seals", body)).status == 400

        playing(scenario)

    def test_a_large_request_is_not_even_read(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            reply = await gate.post("/v1/seals", b" " * (SEALS_BYTES_MAX + 1))
            assert reply.status == 413

        playing(scenario)

    def test_the_same_receipt_asked_twice_in_one_request_is_one_leaf(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            given = await gate.seal([answer.order], [*ids([answer]) * 3, "o-none"])
            assert given["receipts"]["order_ids"] == ids([answer])
            assert given["unknown"] == ["o-none"]

        playing(scenario)


def test_ten_thousand_orders_in_flight_of_one_gateway_stay_within_its_bound() -> None:
    bench = Bench(unsealed_max=100)
    rng = random.Random(8)
    for number in range(10_000):
        if bench.sealing.has_room(GATEWAY.identity):
            statement = bench.take(number)
            if rng.random() < 0.5:
                bench.end(number, statement)
        assert bench.sealing.unsealed <= 100
    assert bench.sealing.has_room(OTHER.identity)

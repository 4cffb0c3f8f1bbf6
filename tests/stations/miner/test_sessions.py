"""Orders under sessions: vouched for in both directions, and refused when anything is not as it was."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.makers import GATEWAY, MANIFEST, MINER, ToyKey
from tests.stations.miner.gate import Gate, judged
from tests.stations.miner.scripted_engine import chunk, streaming
from tests.stations.miner.world import CHARTER, OPERATOR, World, chat_body, playing

from penstock.kit.handshake import order_mac, session_header
from penstock.kit.spell import spell
from penstock.spec.canon import digest_spelled, to_plain
from penstock.spec.keys import sign
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Outcome

BODY = chat_body()
OTHER = ToyKey("other gateway")
THIEF = ToyKey("thief")


def with_two_gateways(world: World) -> None:
    charter = replace(CHARTER, gateways=(GATEWAY.identity, OTHER.identity))
    world.market.charter = sign("charter", charter, OPERATOR)


async def ready_gate(world: World, key: ToyKey = GATEWAY) -> Gate:
    await world.ready()
    gate = Gate.of(world, key)
    await gate.open()
    return gate


class TestOrders:
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_vouched_order_gets_a_vouched_receipt_and_the_seals_make_a_record(
        self, *, stream: bool
    ) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answer = await gate.call(chat_body("one two three", stream=stream))
            assert answer.status == 200
            assert answer.receipt.outcome is Outcome.COMPLETE
            assert answer.receipt.units.completion == 3
            given = await gate.seal([answer.order], [answer.order.order_id])
            assert (given["orders_known"], given["unknown"]) == (1, [])
            (record,) = gate.records([answer], [answer.order], given)
            assert judged(record).earned_nano == answer.receipt.charge_nano > 0

        playing(scenario)

    def test_a_signed_order_still_gets_a_signed_receipt(self) -> None:
        async def scenario(world: World) -> None:
            await ready_gate(world)
            answer = await world.call(BODY)
            assert answer.receipt.outcome is Outcome.COMPLETE

        playing(scenario)

    def test_checkpoints_of_a_vouched_stream_are_signed_one_by_one(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            words = " ".join(f"w{number}" for number in range(70))
            answer = await gate.call(chat_body(words, stream=True), completion_max=200)
            comment = b": penstock-checkpoint "
            (line,) = [one for one in answer.body.split(b"\n\n") if one.startswith(comment)]
            fields = msgspec.json.decode(line.removeprefix(comment))
            assert fields["signer"] == MINER.identity
            assert fields["signature"]

        playing(scenario)

    @pytest.mark.parametrize(
        ("changes", "status", "code"),
        [
            ({"miner": THIEF.identity}, 404, "instance_unknown"),
            ({"request_digest": "0" * 64}, 400, "bad_order"),
            ({"path": "/v1/completions"}, 400, "bad_order"),
            ({"deadline_ms": 1}, 400, "order_expired"),
            ({"deadline_ms": 2**50}, 400, "bad_order"),
            ({"charge_max": 0}, 409, "order_underpaid"),
            ({"images_max": -1, "charge_max": 1}, 400, "bad_order"),
            ({"gateway": OTHER.identity}, 400, "bad_order"),
        ],
    )
    def test_a_vouched_order_meets_all_other_checks(
        self, changes: dict[str, Any], status: int, code: str
    ) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answer = await gate.call(BODY, **changes)
            assert (answer.status, answer.error) == (status, code)
            assert answer.text == b""
            assert len(world.miner.parts.claims.sealing) == 0
            assert (await gate.call(BODY)).status == 200

        playing(scenario)

    def test_a_vouched_order_is_served_once(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            order = gate.order(BODY)
            headers = gate.headers(order)
            assert (await gate.place(order, BODY, headers=headers)).status == 200
            again = await gate.place(order, BODY, headers=headers)
            assert (again.status, again.error) == (409, "order_replayed")
            signed = await world.post(sign("order", order, GATEWAY), BODY)
            assert signed.error == "order_replayed"

        playing(scenario)

    def test_an_order_id_that_still_earns_is_not_used_again_after_its_time(self) -> None:
        """Or a gateway could wipe out what it owes by a later, cheaper order of the same id."""

        def prepare(world: World) -> None:
            world.market.claim_state = "waiting"

        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answer = await gate.call(BODY)
            await gate.seal([answer.order])
            await asyncio.sleep(2 * LOCAL.order_ttl_ms / 1000)
            again = await gate.call(BODY, order_id=answer.order.order_id)
            assert (again.status, again.error) == (409, "order_replayed")

        playing(scenario, prepare=prepare)

    def test_a_wrong_mac_and_the_mac_of_another_session_are_refused(self) -> None:
        async def scenario(world: World) -> None:
            first, second = await ready_gate(world), await ready_gate(world, OTHER)
            order = first.order(BODY)
            for headers in (
                first.headers(order, key=b"x" * 32),
                first.headers(order, key=second.session_key),
            ):
                answer = await first.place(order, BODY, headers=headers)
                assert (answer.status, answer.error) == (400, "bad_order")
            # In its own session, but in the other gateway's name.
            stolen = await second.call(BODY, gateway=GATEWAY.identity)
            assert (stolen.status, stolen.error) == (400, "bad_order")
            assert (await first.place(order, BODY, headers=first.headers(order))).status == 200

        playing(scenario, prepare=with_two_gateways)

    def test_changed_bytes_under_the_same_mac_are_refused(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            order = gate.order(BODY)
            _, session = gate.headers(order)
            more = spell(replace(order, charge_max=order.charge_max + 1)).decode()
            headers = (("x-penstock-order", more), session)
            assert (await gate.place(order, BODY, headers=headers)).error == "bad_order"

        playing(scenario)

    def test_an_order_in_another_spelling_is_refused_although_its_mac_holds(self) -> None:
        """Its digest would not be the one that the law reckons from the order's values."""

        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            order = gate.order(BODY)
            loose = msgspec.json.encode(dict(reversed(to_plain(order).items())))
            padded = spell(order)[:-1] + b" }"
            twice = spell(order)[:-1] + b',"nonce":"n"}'
            for data in (loose, padded, twice, b"{}", b"[]", b"{", b"x"):
                mac = order_mac(gate.session_key, digest_spelled("order", data))
                headers = (
                    ("x-penstock-order", data.decode()),
                    ("x-penstock-session", session_header(gate.session_id, mac)),
                )
                answer = await gate.place(order, BODY, headers=headers)
                assert (answer.status, answer.error) == (400, "bad_order"), data

        playing(scenario)

    @pytest.mark.parametrize(
        ("header", "status", "code"),
        [
            ("s-" + "0" * 32 + "." + "0" * 64, 401, "session_unknown"),
            ("s-" + "0" * 32, 400, "bad_order"),
            ("nonsense", 400, "bad_order"),
            ("." * 5_000, 400, "bad_order"),
            ("s-" + "0" * 32 + "." + "\xe9" * 64, 400, "bad_order"),
        ],
    )
    def test_a_session_header_that_names_none_is_refused(
        self, header: str, status: int, code: str
    ) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            order = gate.order(BODY)
            headers = (gate.headers(order)[0], ("x-penstock-session", header))
            answer = await gate.place(order, BODY, headers=headers)
            assert (answer.status, answer.error) == (status, code)

        playing(scenario)

    @pytest.mark.parametrize("header", ["", "\xe9", "{" * 16_385])
    def test_an_order_header_that_is_none_is_refused_under_a_session_too(self, header: str) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            order = gate.order(BODY)
            headers = (("x-penstock-order", header), gate.headers(order)[1])
            answer = await gate.place(order, BODY, headers=headers)
            assert answer.status in {400, 401}

        playing(scenario)

    def test_after_a_restart_the_session_is_unknown_and_a_new_one_works(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            world.stop.set()
            await asyncio.sleep(10)
            world.market.offers.clear()
            async with asyncio.TaskGroup() as group:
                group.create_task(world.run_miner())
                await world.ready()
                answer = await gate.call(BODY)
                assert (answer.status, answer.error) == (401, "session_unknown")
                assert answer.text == b""
                await gate.open()
                assert (await gate.call(BODY)).status == 200
                world.stop.set()

        playing(scenario)

    def test_a_gateway_that_leaves_the_charter_loses_its_session(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            world.market.charter = sign("charter", replace(CHARTER, gateways=()), OPERATOR)
            trust = world.miner.parts.front.admission.trust
            await world.until(lambda: trust.charter is not None and not trust.charter.gateways)
            assert (await gate.call(BODY)).error == "session_unknown"
            assert len(world.miner.parts.pages.sessions) == 0

        playing(scenario)

    def test_a_refusal_for_want_of_room_is_vouched_for_and_sealed(self) -> None:
        hold = asyncio.Event()

        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            async with asyncio.TaskGroup() as group:
                for _ in range(MANIFEST.limits.parallel_max):
                    group.create_task(gate.call(chat_body(stream=True)))
                (instance,) = world.miner.parts.fleet.instances.values()
                await world.until(lambda: instance.room == 0)
                answer = await gate.call(BODY)
                hold.set()
            assert (answer.status, answer.error) == (503, "no_capacity")
            assert answer.receipt.outcome is Outcome.REFUSED
            given = await gate.seal([answer.order], [answer.order.order_id])
            (record,) = gate.records([answer], [answer.order], given)
            assert judged(record).outcome is Outcome.REFUSED
            assert answer.order.order_id not in world.kept

        def prepare(world: World) -> None:
            world.scripted(streaming(chunk("a", finish="stop"), hold=hold))

        playing(scenario, prepare=prepare)


class TestCancels:
    @pytest.mark.parametrize("is_signed", [False, True])
    def test_a_vouched_order_is_cancelled_by_its_mac_or_by_a_signature(
        self, *, is_signed: bool
    ) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gate.call(chat_body(stream=True)))
                await world.until(lambda: len(world.miner.parts.front.jobs))
                await asyncio.sleep(1)
                (job,) = world.miner.parts.front.jobs._jobs.values()
                order = job.admitted.order
                path = f"/v1/cancel/{order.order_id}"
                wrong = gate.headers(order, key=b"x" * 32)[1:]
                assert (await gate.post(path, spell(order), headers=wrong)).status == 400
                if is_signed:
                    reply = await world.cancel(sign("order", order, GATEWAY))
                else:
                    proof = gate.headers(order)[1:]
                    reply = await gate.post(path, spell(order), headers=proof)
                assert reply.status == 200
                answer = await task
            assert answer.receipt.outcome is Outcome.CLIENT_CANCELLED
            assert answer.receipt.units.completion == 1
            given = await gate.seal([order], [order.order_id])
            (record,) = gate.records([answer], [order], given)
            assert judged(record).earned_nano == answer.receipt.charge_nano > 0

        def prepare(world: World) -> None:
            world.scripted(streaming(chunk("a"), hold=asyncio.Event()))

        playing(scenario, prepare=prepare)

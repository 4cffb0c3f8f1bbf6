"""Only fair, fresh orders of chartered gateways for this very miner are served."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.makers import GATEWAY, MANIFEST, ToyKey, make_order
from tests.stations.miner.world import CHARTER, OPERATOR, World, chat_body, header_of, playing

from penstock.miner.admission import HEADER_CHARS_MAX, parse_header
from penstock.miner.errors import OrderRefused
from penstock.miner.replay import ReplayGuard
from penstock.spec.canon import to_plain
from penstock.spec.keys import Delegation, Role, sign
from penstock.spec.messages import chute_id
from penstock.spec.params import LOCAL
from penstock.spec.units import FREE

BODY = chat_body()


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"miner": ToyKey("other").identity}, 404, "instance_unknown"),
        ({"instance": "m-99-00000000"}, 404, "instance_unknown"),
        ({"chute": chute_id(replace(MANIFEST, name="other"))}, 404, "instance_unknown"),
        ({"request_digest": "0" * 64}, 400, "bad_order"),
        ({"path": "/v1/completions"}, 400, "bad_order"),
        ({"deadline_ms": 1}, 400, "order_expired"),
        ({"deadline_ms": 2**50}, 400, "bad_order"),
        ({"issued_ms": 1}, 409, "order_replayed"),
        ({"price": FREE}, 409, "order_underpaid"),
        ({"charge_max": 0}, 409, "order_underpaid"),
        ({"prompt_max": -1, "charge_max": 1}, 400, "bad_order"),
    ],
)
def test_an_order_that_is_wrong_in_one_thing_is_refused(
    changes: dict[str, Any], status: int, code: str
) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(BODY, **changes)
        assert (answer.status, answer.error) == (status, code)
        assert b"x-penstock-receipt" not in answer.headers
        assert (await world.call(BODY)).status == 200

    playing(scenario)


def test_orders_of_strangers_and_forgers_are_refused() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        thief = ToyKey("thief")
        stranger = await world.call(BODY, key=thief, gateway=thief.identity)
        assert (stranger.status, stranger.error) == (403, "gateway_unknown")
        signed = sign("order", world.order(BODY), GATEWAY)
        forged = replace(signed, body={**signed.body, "charge_max": 2**40})
        assert (await world.post(forged, BODY)).error == "bad_order"
        in_anothers_name = await world.call(BODY, gateway=thief.identity)
        assert in_anothers_name.error == "bad_order"
        as_offer = sign("offer", world.order(BODY), GATEWAY)
        assert (await world.post(as_offer, BODY)).error == "bad_order"

    playing(scenario)


def test_an_order_is_served_once() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        signed = sign("order", world.order(BODY), GATEWAY)
        first = await world.post(signed, BODY)
        second = await world.post(signed, BODY)
        assert first.status == 200
        assert (second.status, second.error) == (409, "order_replayed")

    playing(scenario)


def test_an_order_of_a_former_life_is_refused() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        signed = sign("order", world.order(BODY), GATEWAY)
        assert (await world.post(signed, BODY)).status == 200
        world.stop.set()
        await asyncio.sleep(10)
        world.market.offers.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.run_miner())
            offer = await world.ready()
            assert offer.instance == signed.body["instance"]
            again = await world.post(signed, BODY)
            assert (again.status, again.error) == (409, "order_replayed")
            world.stop.set()

    playing(scenario)


def test_an_order_without_a_header_or_with_a_broken_one_is_refused() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        for header, status in (("", 401), ("%%%", 400), ("e30", 400), ("bm90IGpzb24", 400)):
            reply = await world.client.call(
                "POST",
                "http://miner:9000/v1/chat/completions",
                headers=(("x-penstock-order", header),),
                body=BODY,
                deadline_ms=5_000,
            )
            assert reply.status == status

    playing(scenario)


def test_a_header_is_read_with_and_without_padding_and_bounded() -> None:
    text = header_of(sign("order", make_order(), GATEWAY))
    assert parse_header(text) == parse_header(text + "=" * (-len(text) % 4))
    with pytest.raises(OrderRefused):
        parse_header("A" * (HEADER_CHARS_MAX + 1))


def test_a_request_that_the_engine_cannot_take_costs_no_units() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        for body in (b"not json", msgspec.json.encode({"tools": [1], "messages": []})):
            answer = await world.call(body)
            assert answer.status == 400
            assert answer.receipt.charge_nano == 0

    playing(scenario)


def test_a_working_key_that_a_chartered_gateway_delegated_to_may_order() -> None:
    worker = ToyKey("gateway-worker")
    delegation = Delegation(
        owner=GATEWAY.identity, key=worker.identity, role=Role.GATEWAY, not_after_ms=2**50
    )

    def prepare(world: World) -> None:
        world.market.delegations = [
            sign("delegation", delegation, GATEWAY),
            sign(
                "delegation",
                replace(delegation, key=ToyKey("late").identity, not_after_ms=1),
                GATEWAY,
            ),
            sign("delegation", replace(delegation, owner=ToyKey("x").identity), ToyKey("x")),
        ]

    async def scenario(world: World) -> None:
        await world.ready()
        assert (await world.call(BODY, key=worker, gateway=worker.identity)).status == 200
        late = ToyKey("late")
        assert (await world.call(BODY, key=late, gateway=late.identity)).status == 403

    playing(scenario, prepare=prepare)


def test_a_market_that_changes_its_operator_is_not_believed() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        thief = ToyKey("thief")
        usurped = replace(CHARTER, operator=thief.identity, gateways=(thief.identity,))
        world.market.charter = sign("charter", usurped, thief)
        await world.until(lambda: world.miner.parts.deployment.why)
        assert thief.identity in world.miner.parts.deployment.why
        assert (await world.call(BODY, key=thief, gateway=thief.identity)).status == 403
        assert (await world.call(BODY)).status == 200

    playing(scenario)


def test_a_charter_that_is_not_its_operators_word_gives_no_gateways() -> None:
    def prepare(world: World) -> None:
        world.market.charter = sign("charter", CHARTER, ToyKey("thief"))

    async def scenario(world: World) -> None:
        await world.until(lambda: world.miner.parts.deployment.why)
        assert world.market.offers == []
        world.market.charter = sign("charter", CHARTER, OPERATOR)
        await world.ready()

    playing(scenario, prepare=prepare)


def test_the_replay_guard_forgets_what_has_expired_and_is_bounded() -> None:
    guard = ReplayGuard(orders_max=3)
    for number in range(3):
        guard.remember(f"o-{number}", deadline_ms=5_000 + number, now_ms=1_000)
    assert guard.is_full(now_ms=5_900)
    assert guard.has_seen("o-1")
    assert not guard.is_full(now_ms=6_000)
    assert len(guard) == 0


def test_a_full_replay_guard_refuses_instead_of_forgetting() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        world.miner.parts.front.admission.replay.orders_max = 1
        assert (await world.call(BODY)).status == 200
        full = await world.call(BODY)
        assert (full.status, full.error) == (503, "no_capacity")
        await asyncio.sleep(LOCAL.order_ttl_ms / 1000 + 2)
        assert (await world.call(BODY)).status == 200

    playing(scenario)


def test_the_plain_form_of_an_order_survives_any_spelling_of_its_json() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        signed = sign("order", world.order(BODY), GATEWAY)
        plain = to_plain(signed)
        plain["body"] = dict(reversed(plain["body"].items()))
        shuffled = replace(signed, body=plain["body"])
        assert (await world.post(shuffled, BODY)).status == 200

    playing(scenario)

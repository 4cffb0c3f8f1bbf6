"""A miner with cards before the market's own table of devices: one card is offered once."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
from tests.makers import MANIFEST, MINER, ToyKey
from tests.market_makers import offer_of
from tests.stations.miner.world import CONFIG, HARDWARE, World, chat_body, playing

from penstock.kit.hardware import Gpu
from penstock.kit.wire.http import Request, Response
from penstock.market.config import Bounds
from penstock.market.errors import MarketError, answer_of
from penstock.market.offers import Offers
from penstock.miner.hardware import gpu_device
from penstock.spec.keys import parse_signed, sign
from penstock.spec.messages import Offer

GIB = 1 << 30
CARD = Gpu(model="NVIDIA L4", uuid="GPU-1", memory_bytes=24 * GIB)
RIVAL = ToyKey("rival")
ON_CARD = replace(MANIFEST, hardware="gpu")
SMALL = replace(MANIFEST, name="small", hardware="cpu")


def rivals(*, seq: int, room: int = 1) -> Offer:
    """What another agent on the same machine says of the same card."""
    return replace(
        offer_of(instance="rival-1", miner=RIVAL.identity, seq=seq, room=room),
        device=gpu_device(CARD),
        hardware="nvidia-l4",
        valid_until_ms=1 << 50,
    )


def before_the_table(
    scenario: Callable[[World, Offers], Awaitable[None]], *manifests: object
) -> None:
    table = Offers(Bounds())

    def prepare(world: World) -> None:
        world.market.manifests = list(manifests)  # type: ignore[arg-type]
        names = tuple(one.name for one in world.market.manifests)
        world.config = msgspec.structs.replace(CONFIG, chutes=names)
        world.hardware = replace(HARDWARE, gpus=(CARD,), kind="nvidia-l4", memory_bytes=8 * GIB)
        answer = world.market.offer

        async def offer(request: Request) -> Response:
            signed = parse_signed(msgspec.json.decode(request.body)["offer"])
            said = Offer(**{**signed.body, "price": MANIFEST.price_max})
            try:
                now_ms = world.market.now_ms
                table.take(said, signed, owner=said.miner, now_ms=now_ms)
            except MarketError as error:
                return answer_of(error, "r-1")
            return await answer(request)

        world.market.offer = offer  # type: ignore[method-assign]

    async def play(world: World) -> None:
        await scenario(world, table)

    playing(play, prepare=prepare)


def test_offers_name_the_card_or_the_machine_whichever_the_instance_uses() -> None:
    async def scenario(world: World, _table: Offers) -> None:
        await world.until(lambda: len({one.instance for one in world.market.offers}) == 2)
        found = {one.instance[:3]: (one.hardware, one.device) for one in world.market.offers}
        assert found == {
            "m-1": ("nvidia-l4", gpu_device(CARD)),
            "m-2": ("cpu", HARDWARE.device),
        }
        slots = {one["slot"]: one for one in (await world.health())["slots"]}
        assert 0 < slots["GPU-1"]["reserved_bytes"] <= slots["GPU-1"]["memory_bytes"]
        assert slots["cpu"]["reserved_bytes"] > 0

    before_the_table(scenario, ON_CARD, SMALL)


def test_the_second_agent_on_a_card_is_refused_says_why_and_serves_when_it_is_free() -> None:
    async def scenario(world: World, table: Offers) -> None:
        await world.until(lambda: world.miner.parts.fleet.instances)
        (instance,) = world.miner.parts.fleet.instances.values()
        await world.until(lambda: instance.refused)
        (shown,) = (await world.health())["instances"]
        assert "offered by another miner already" in shown["why"]
        assert (shown["state"], shown["offered"]) == ("serving", False)
        assert world.market.offers == []
        leaving = rivals(seq=2, room=0)
        table.withdraw(leaving, sign("offer", leaving, RIVAL))
        offer = await world.ready()
        assert offer.miner == MINER.identity
        assert (await world.call(chat_body())).status == 200
        (shown,) = (await world.health())["instances"]
        assert (shown["why"], shown["offered"]) == ("", True)

    def first_comes_the_rival(world: World, table: Offers) -> Awaitable[None]:
        offer = rivals(seq=1)
        table.take(offer, sign("offer", offer, RIVAL), owner=RIVAL.identity, now_ms=0)
        return scenario(world, table)

    before_the_table(first_comes_the_rival, ON_CARD)


def test_two_named_chutes_for_one_card_are_served_one_and_the_other_says_what_it_lacks() -> None:
    async def scenario(world: World, _table: Offers) -> None:
        await world.ready()
        health = await world.health()
        assert len(health["instances"]) == 1
        assert "second: there is no memory for it" in health["problems"]

    before_the_table(scenario, ON_CARD, replace(ON_CARD, name="second"))

"""Prompts of one payer in the cache are no other payer's to find: what the miner asks of engines for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.makers import MANIFEST, make_order
from tests.stations.miner.scripted_engine import Answering
from tests.stations.miner.world import World, chat_body, playing

from penstock.kit.engine import Capability
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.problem import problem
from penstock.miner.isolation import cache_salt, payer_of
from penstock.miner.rewrite import Prepared, prepare

ALL = frozenset(Capability)
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def prepared(
    fields: dict[str, Any],
    *,
    key: bytes = KEY,
    capabilities: frozenset[Capability] = ALL,
    engine: str = "vllm",
    **order: Any,
) -> Prepared:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return prepare(
        msgspec.json.encode(body),
        make_order(stream=False, **order),
        manifest=replace(MANIFEST, engine=engine),
        model="m",
        capabilities=capabilities,
        salt_key=key,
    )


def salt(**given: Any) -> object:
    fields = given.pop("fields", {})
    return msgspec.json.decode(prepared(fields, **given).body).get("cache_salt")


def test_each_payer_of_each_gateway_has_a_salt_of_their_own() -> None:
    salts = [
        salt(payer_tag="a"),
        salt(payer_tag="b"),
        salt(payer_tag="a", gateway="ed25519:other"),
        salt(payer_tag="a", key=OTHER_KEY),
        salt(payer_tag="a", fields={"cache_salt": "one of their users"}),
    ]
    assert len(set(salts)) == 5
    assert salt(payer_tag="a") == salts[0]
    assert all(isinstance(one, str) and len(one) == 64 for one in salts)


def test_a_client_cannot_write_the_salt_of_another() -> None:
    others = salt(payer_tag="a")
    assert salt(payer_tag="b", fields={"cache_salt": others}) != others
    assert payer_of(make_order(payer_tag="a"), "x") != payer_of(make_order(payer_tag="a x"), "")


@pytest.mark.parametrize("odd", [7, None, ["x"], {"a": 1}])
def test_an_odd_salt_is_none(odd: object) -> None:
    assert salt(payer_tag="a", fields={"cache_salt": odd}) == salt(payer_tag="a")


def test_an_engine_that_takes_no_salts_gets_none() -> None:
    without = ALL - {Capability.CACHE_SALT}
    assert salt(fields={"cache_salt": "mine"}, capabilities=without) is None


def test_a_salt_follows_from_key_and_payer_alone() -> None:
    assert cache_salt(KEY, "a") == cache_salt(KEY, "a")
    assert len({cache_salt(KEY, "a"), cache_salt(KEY, "b"), cache_salt(OTHER_KEY, "a")}) == 3


def test_what_is_cached_and_where_is_not_for_clients_to_say() -> None:
    fields = {"id_slot": 3, "cache_prompt": True}
    ready = prepared(fields, engine="llamacpp")
    assert not {"id_slot", "cache_prompt"} & msgspec.json.decode(ready.body).keys()
    assert not ready.forgoes_cache
    assert prepared({"cache_prompt": False}, engine="llamacpp").forgoes_cache


def test_a_llama_whose_slots_are_not_ours_to_give_uses_nothing_again() -> None:
    ready = prepared({}, engine="llamacpp", capabilities=ALL - {Capability.CACHE_SLOTS})
    assert msgspec.json.decode(ready.body)["cache_prompt"] is False


def test_it_is_told_how_many_choices_there_are() -> None:
    assert prepared({}, engine="llamacpp").choices == 1
    several = prepare(
        b'{"messages":[],"n":2}',
        make_order(stream=False),
        manifest=replace(MANIFEST, engine="llamacpp"),
        model="m",
        capabilities=ALL,
    )
    assert several.choices == 2
    assert several.payer


async def answering(_request: Request) -> Response:
    message = {"role": "assistant", "content": "hello"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json_response(200, {"choices": [choice], "usage": usage})


def with_engine(handler: Answering) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        world.scripted(handler)

    return prepare


def test_orders_take_turns_in_slots_of_their_payers() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        for payer_tag in ("a", "a", "b", "a"):
            answer = await world.call(chat_body("hi"), payer_tag=payer_tag)
            assert answer.status == 200
        asked = [(body["id_slot"], body["cache_prompt"]) for body in world.engine.seen]
        assert asked == [(0, False), (0, True), (1, False), (0, True)]
        salts = [body["cache_salt"] for body in world.engine.seen]
        assert (salts[0] == salts[1] == salts[3]) is (salts[0] != salts[2])

    playing(scenario, prepare=with_engine(answering))


def test_a_refused_order_leaves_its_slot_to_nobody() -> None:
    asked: list[bytes] = []

    async def handler(request: Request) -> Response:
        asked.append(request.body)
        if len(asked) == 2:
            return problem(400, "invalid_request", "The grammar is none.")
        return await answering(request)

    async def scenario(world: World) -> None:
        await world.ready()
        for _ in range(4):
            await world.call(chat_body("hi"), payer_tag="a")
        reuse = [msgspec.json.decode(body)["cache_prompt"] for body in asked]
        assert reuse == [False, True, False, True]

    playing(scenario, prepare=with_engine(handler))

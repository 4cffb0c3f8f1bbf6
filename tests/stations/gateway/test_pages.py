"""Everything that is read at the gateway, and the shape of every refusal."""

import json
from typing import Any

import pytest
from tests.makers import MANIFEST, toy_verify
from tests.stations.gateway.script import Script
from tests.stations.gateway.world import World, chat, error_of, play, renamed

from penstock.gateway.models import usd_per_unit
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.spec.canon import to_plain
from penstock.spec.messages import Modality, chute_id
from penstock.spec.receipts import judge, parse_record

EMBEDDINGS = "/v1/embeddings"


def test_models_are_listed_in_openais_shape_with_what_this_market_knows() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        await world.put_manifest(renamed("org/other-chat", modality=Modality.EMBEDDINGS))
        listed = json.loads((await world.get("/v1/models", secret="")).body)
        assert listed["object"] == "list"
        assert [card["id"] for card in listed["data"]] == ["org/other-chat", "tiny-chat"]
        card = listed["data"][1]
        assert card["object"] == "model"
        assert card["chute"] == chute_id(MANIFEST)
        assert card["modality"] == "chat"
        assert card["context_length"] == 1024
        assert card["instances"] == 1
        assert card["price_max"] == to_plain(MANIFEST.price_max)
        assert card["pricing"]["prompt"] == "0.00000005"
        for name in ("tiny-chat", chute_id(MANIFEST), "org/other-chat"):
            one = await world.get(f"/v1/models/{name}")
            assert one.status == 200
            assert json.loads(one.body)["object"] == "model"
        missing = await world.get("/v1/models/nobody")
        assert missing.status == 404
        assert error_of(missing)["code"] == "model_not_found"

    play(scenario)


def test_a_price_per_unit_is_exact_text() -> None:
    texts = [usd_per_unit(nano) for nano in (0, 1, 200_000_000, 10**15, 2 * 10**15 + 5 * 10**14)]
    assert texts == ["0", "0.000000000000001", "0.0000002", "1", "2.5"]


def test_a_receipt_is_open_to_all_with_its_proof_once_the_ledger_has_it() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        world.bus.down = False
        reply = await world.post(chat())
        order_id = reply.header("x-penstock-order")
        await world.at_rest()
        found = json.loads((await world.get(f"/v1/receipts/{order_id}", secret="")).body)
        assert found["seq"] == 7
        record = parse_record(found["record"])
        judged = judge(record, refusal_free_ms=100, verify=toy_verify)
        assert judged.charge_nano == int(reply.header("x-penstock-charge"))
        world.bus.down = True
        again = json.loads((await world.get(f"/v1/receipts/{order_id}")).body)
        assert (again["record"], again["seq"]) == (found["record"], -1)
        unknown = await world.get("/v1/receipts/o-other")
        assert unknown.status == 503
        world.bus.down = False

    play(scenario)


@pytest.mark.parametrize("order_id", ["o-unknown", "x" * 300, "%22%0a"])
def test_an_unknown_receipt_is_told_so(order_id: str) -> None:
    async def scenario(world: World) -> None:
        reply = await world.get(f"/v1/receipts/{order_id}")
        assert reply.status == 404
        assert error_of(reply)["code"] == "receipt_not_found"

    play(scenario)


def test_the_balance_is_the_ledgers_word() -> None:
    async def scenario(world: World) -> None:
        await world.get("/v1/balance")
        assert error_of(await world.get("/v1/balance"))["code"] == "bus_down"

        async def balance(request: Request) -> Response:
            assert request.bearer() == "sk-penstock-alice"
            return json_response(200, {"account": "alice", "available_nano": 5, "held_nano": 1})

        routes = Routes()
        routes.add("GET", "/v1/balance", balance)
        ledger = Server(world.network.at("ledger"), routes, entropy=bytes)
        await ledger.start("ledger", 1)
        reply = await world.get("/v1/balance")
        assert json.loads(reply.body)["available_nano"] == 5
        assert (await world.get("/v1/balance", secret="")).status == 401
        await ledger.close(0)

    play(scenario)


def test_health_and_metrics_tell_what_is_there() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        await world.post(chat())
        await world.hear(chat(stream=True))
        await world.post(chat(model="nobody"))
        await world.at_rest()
        health = json.loads((await world.get("/health", secret="")).body)
        assert (health["status"], health["models"], health["instances"]) == ("ok", 1, 1)
        text = (await world.get("/metrics", secret="")).body.decode()
        for outcome, count in (("complete", 2), ("model_not_found", 1)):
            labels = f'outcome="{outcome}",path="/v1/chat/completions"'
            assert f"gateway_requests_total{{{labels}}} {count}\n" in text
        for name in ("gateway_ttft_ms_count 2", "gateway_records_waiting 0", "gateway_leases 1"):
            assert name in text

    play(scenario)


REFUSED: list[tuple[str, Any, int, str]] = [
    ("/v1/chat/completions", b"{", 400, "invalid_json"),
    ("/v1/chat/completions", chat(max_tokens=-1), 400, "invalid_request"),
    ("/v1/chat/completions", chat(model="nobody"), 404, "model_not_found"),
    ("/v1/chat/completions", chat(model="vectors"), 400, "invalid_request"),
    ("/v1/chat/completions", chat(model="lonely"), 503, "no_capacity"),
    (EMBEDDINGS, {"model": "tiny-chat", "input": "a"}, 400, "invalid_request"),
    ("/v1/chat/completions", b" " * (9 << 20), 413, "body_too_large"),
    ("/v1/nothing", chat(), 404, "route_unknown"),
]


@pytest.mark.parametrize(("path", "body", "status", "code"), REFUSED)
def test_a_refusal_has_its_status_and_code_and_costs_nothing(
    path: str, body: Any, status: int, code: str
) -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        await world.put_manifest(renamed("vectors", modality=Modality.EMBEDDINGS))
        await world.put_manifest(renamed("lonely"))
        reply = await world.post(body, path)
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (status, code)
        if status != 413:  # refused while it was still coming in, before it had an id
            error_of(reply)
        assert not miner.served
        await world.at_rest()

    play(scenario)


def test_completions_and_embeddings_reach_chutes_of_their_kind() -> None:
    async def scenario(world: World) -> None:
        chats = await world.add_miner("m1")
        vectors = await world.add_miner("m2", renamed("vectors", modality=Modality.EMBEDDINGS))
        vectors.default = Script(words=())
        done = await world.post({"model": "tiny-chat", "prompt": "Once"}, "/v1/completions")
        assert done.status == 200
        assert (await world.post({"model": "vectors", "input": "a"}, EMBEDDINGS)).status == 200
        assert chats.served[0].order.path == "/v1/completions"
        assert vectors.served[0].order.completion_max == 0
        await world.at_rest()

    play(scenario)


def test_demand_is_put_on_the_board_and_only_grows() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        await world.put_manifest(renamed("lonely"))
        hex_of = {name: chute_id(renamed(name)).removeprefix("sha256:") for name in ("lonely",)}
        hex_of["tiny-chat"] = chute_id(MANIFEST).removeprefix("sha256:")
        seen: dict[str, dict[str, Any]] = {}
        for _ in range(2):
            await world.post(chat())
            await world.post(chat(model="lonely"))
        await world.at_rest()
        await world.gateway.demand.put_changes()
        async for key, value in world.bus.watch("demand.gw"):
            seen[key.rpartition(".")[2]] = json.loads(value)
            if len(seen) == 2:
                break
        served, lonely = seen[hex_of["tiny-chat"]], seen[hex_of["lonely"]]
        assert served["chute"] == chute_id(MANIFEST)
        assert (served["requests"], served["refused"]) == (2, 0)
        assert served["busy_us"] > 100_000
        assert (lonely["requests"], lonely["refused"], lonely["busy_us"]) == (2, 2, 0)

    play(scenario)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/messages", {"stop_sequences": ["x"] * 20}, "stop_sequences"),
        ("/v1/messages", {"temperature": 9}, "temperature"),
        ("/v1/messages", {"top_p": 9}, "top_p"),
        ("/v1/messages", {"max_tokens": 0}, "max_tokens"),
        ("/v1/messages", {"system": 5}, "system"),
        ("/v1/messages", {"tools": [5]}, "tools[0]"),
        ("/v1/messages", {"metadata": {"user_id": 5}}, "metadata.user_id"),
        ("/v1/responses", {"input": []}, "input"),
        ("/v1/responses", {"max_output_tokens": -1}, "max_output_tokens"),
        ("/v1/responses", {"temperature": 9}, "temperature"),
    ],
)
def test_a_refusal_names_the_field_that_the_caller_sent(
    path: str, fields: dict[str, Any], param: str
) -> None:
    turns: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    least = turns if path == "/v1/messages" else {"input": "hi"}

    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        reply = await world.post({"model": "tiny-chat", **least, **fields}, path)
        assert reply.status == 400
        error = json.loads(reply.body)["error"]
        assert error["param"] == param
        assert param.partition(".")[0] in error["message"]

    play(scenario)

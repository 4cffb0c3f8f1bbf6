"""The market's HTTP: every route of the interface, its answers and its refusals."""

import json
from typing import Any

import pytest
from tests.makers import OWNER, PRICE, ToyKey
from tests.market_makers import ANNA, BERT, CHUTE, MARKET_KEY, World, in_world, manifest_of, plain

from penstock.kit.wire.http import Request, Response
from penstock.market.routes import build_routes
from penstock.market.views import Info
from penstock.spec.canon import to_plain
from penstock.spec.keys import Delegation, Role, sign
from penstock.spec.messages import Charter
from penstock.spec.params import LOCAL, params_digest

BOSS = ToyKey("boss")
CHARTER = Charter(
    origin="example/log",
    network="local",
    params_digest=params_digest(LOCAL),
    operator=OWNER.identity,
    ledger="toy:ledger",
    market=MARKET_KEY.identity,
    gateways=(),
    seats=(),
)
INFO = Info(
    charter=sign("charter", CHARTER, OWNER),
    delegations=(),
    ledger_url="http://ledger",
    gateway_urls=("http://gateway",),
)


async def ask(world: World, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """(status, JSON) of one request; a body that is bytes goes as it is."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    routes = build_routes(world.market, INFO)
    answer = await routes(Request(method, path, body=data, request_id="r-1"))
    assert isinstance(answer, Response)
    return answer.status, json.loads(answer.body)


def test_info_tells_who_runs_the_market_and_what_time_it_is() -> None:
    async def story(world: World) -> None:
        assert await ask(world, "GET", "/v1/info") == (
            200,
            {
                "charter": plain(INFO.charter),
                "delegations": [],
                "now_ms": world.clock.now_ms(),
                "ledger_url": "http://ledger",
                "gateway_urls": ["http://gateway"],
            },
        )

    in_world(story)


def test_an_offer_is_taken_and_shown_by_miner() -> None:
    async def story(world: World) -> None:
        delegation = Delegation(
            owner=BOSS.identity, key=ANNA.identity, role=Role.MINER, not_after_ms=2**50
        )
        body = {
            "offer": plain(world.offer()),
            "delegation": plain(sign("delegation", delegation, BOSS)),
        }
        assert await ask(world, "POST", "/v1/offers", body) == (
            200,
            {"now_ms": world.clock.now_ms(), "accepted": True},
        )
        status, shown = await ask(world, "GET", "/v1/miners")
        assert status == 200
        (miner,) = shown["miners"]
        assert (miner["miner"], miner["owner"]) == (ANNA.identity, BOSS.identity)
        assert miner["instances"] == [
            {
                "instance": "anna-1",
                "chute": CHUTE,
                "name": "tiny-chat",
                "room": 4,
                "tier": "open",
                "hardware": "cpu",
                "price": to_plain(PRICE),
                "valid_until_ms": world.clock.now_ms() + LOCAL.offer_ttl_ms,
            }
        ]

    in_world(story)


def test_refusals_carry_the_status_and_code_of_the_interface() -> None:
    async def story(world: World) -> None:
        older, newer = world.offer(), world.offer()
        await ask(world, "POST", "/v1/offers", {"offer": plain(newer), "delegation": None})
        for body, status, code in (
            ({"offer": plain(older), "delegation": None}, 409, "stale_offer"),
            ({"offer": plain(world.offer(device=""))}, 400, "bad_offer"),
            ({"offer": plain(world.offer(chute="sha256:x"))}, 404, "unknown_chute"),
            ({"offer": {"kind": "offer"}}, 422, "invalid_shape"),
            ({"offer": 7}, 422, "invalid_shape"),
            (b"{", 422, "invalid_shape"),
            (b"\xff", 422, "invalid_shape"),
            (b"[" * 100_000, 422, "invalid_shape"),
        ):
            answered, said = await ask(world, "POST", "/v1/offers", body)
            assert (answered, said["error"]["code"]) == (status, code)
            assert said["error"]["request_id"] == "r-1"
            assert said["error"]["message"].endswith(".")
        metrics = world.market.metrics
        assert metrics.value("market_refused_total", code="invalid_shape") == 5
        assert metrics.value("market_refused_total", code="stale_offer") == 1
        world.bus.down = True
        status, said = await ask(world, "POST", "/v1/offers", {"offer": plain(world.offer())})
        assert (status, said["error"]["code"]) == (503, "bus_down")

    in_world(story)


def test_a_miner_leaves_with_its_signed_word_also_under_a_name_with_a_slash() -> None:
    async def story(world: World) -> None:
        for name in ("anna-1", "anna/2"):
            await world.market.offer(world.offer(instance=name), delegation=None)
            proof = plain(world.offer(instance=name, room=0))
            assert await ask(world, "DELETE", f"/v1/offers/{name}", proof) == (200, {})
        assert len(world.market.offers) == 0
        status, said = await ask(world, "DELETE", "/v1/offers/anna-1", plain(world.offer()))
        assert (status, said["error"]["code"]) == (400, "bad_offer")

    in_world(story)


def test_a_manifest_is_published_and_its_name_protected() -> None:
    async def story(world: World) -> None:
        assert await ask(world, "POST", "/v1/chutes", plain(manifest_of())) == (
            200,
            {"chute": CHUTE, "created": False},
        )
        _, said = await ask(world, "POST", "/v1/chutes", plain(manifest_of(name="new")))
        assert said["created"]
        status, said = await ask(world, "POST", "/v1/chutes", plain(manifest_of(ANNA)))
        assert (status, said["error"]["code"]) == (409, "name_taken")
        status, said = await ask(world, "POST", "/v1/chutes", plain(manifest_of(name="Bad")))
        assert (status, said["error"]["code"]) == (400, "bad_manifest")

    in_world(story)


def test_chutes_show_what_is_wanted_and_old_ones_only_while_served() -> None:
    async def story(world: World) -> None:
        await world.market.publish(manifest_of(name="a-name"))
        _, before = await ask(world, "GET", "/v1/chutes")
        assert [(one["name"], one["target"], one["serving"]) for one in before["chutes"]] == [
            ("a-name", None, 0),
            ("tiny-chat", None, 0),
        ]
        await world.market.offer(world.offer(BERT), delegation=None)
        await world.market.publish(manifest_of(instances_max=9))
        _, served = await ask(world, "GET", "/v1/chutes")
        assert [(one["name"], one["serving"]) for one in served["chutes"]] == [
            ("a-name", 0),
            ("tiny-chat", 1),
            ("tiny-chat", 0),
        ]
        await world.market.withdraw("bert-1", world.offer(BERT, room=0))
        world.market.close_epoch()
        _, after = await ask(world, "GET", "/v1/targets")
        assert after["targets"]["signer"] == MARKET_KEY.identity
        assert after["miners"] == []
        assert [one["manifest"]["body"]["instances_max"] for one in after["chutes"]] == [8, 9]
        assert [one["target"]["bounty_points"] for one in after["chutes"]] == [100, 100]

    in_world(story)


def test_before_the_first_epoch_there_are_no_targets() -> None:
    async def story(world: World) -> None:
        await world.market.offer(world.offer(), delegation=None)
        status, said = await ask(world, "GET", "/v1/targets")
        assert (status, said["targets"], said["miners"]) == (200, None, [ANNA.identity])

    in_world(story)


def test_health_says_when_words_wait_for_the_database() -> None:
    async def story(world: World) -> None:
        _, before = await ask(world, "GET", "/health")
        assert (before["status"], before["chutes"], before["waiting"]) == ("ok", 1, 0)
        world.market.close_epoch()
        _, after = await ask(world, "GET", "/health")
        assert (after["status"], after["waiting"]) == ("degraded", 1)

    in_world(story)


def test_metrics_are_shown_as_text() -> None:
    async def story(world: World) -> None:
        await world.market.offer(world.offer(), delegation=None)
        await world.market.beat()
        answer = await build_routes(world.market, INFO)(Request("GET", "/metrics"))
        assert isinstance(answer, Response)
        assert b"market_instances 1" in answer.body
        assert b"market_offers_total 1" in answer.body

    in_world(story)


@pytest.mark.parametrize("path", ["/v1/none", "/"])
def test_what_is_not_there_is_not_found(path: str) -> None:
    async def story(world: World) -> None:
        status, said = await ask(world, "GET", path)
        assert (status, said["error"]["code"]) == (404, "route_unknown")

    in_world(story)

"""Market and ledger as a validator hears them: strict about what it believes, patient with the rest."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.client.published_log import OPERATOR, STRANGER, PublishedLog, verify
from tests.makers import ToyKey
from tests.stations.validator.world import CHAT, EMBEDDINGS, World, charter_of, listed

from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import Charter, Modality, chute_id
from penstock.spec.params import LOCAL
from penstock.validator.errors import PeerDown, PeerRefused, StartRefused
from penstock.validator.peers import Ledger, Market, Progress

DEADLINE_MS = 1_000


def asking(
    reply: Response, ask: Callable[[Market, Ledger], Awaitable[None]], *, method: str = "GET"
) -> None:
    """A peer that answers every question with `reply`."""
    world = World()

    async def answer(request: Request) -> Response:
        return reply

    async def scenario() -> None:
        table = Routes()
        table.add(method, "/v1/{rest...}", answer)
        server = Server(world.network.at("peer"), table, entropy=bytes)
        await server.start("0.0.0.0", 80)
        http = world.client("validator")
        await ask(
            Market(http, "http://peer/", DEADLINE_MS), Ledger(http, "http://peer", DEADLINE_MS)
        )
        await server.close(drain_ms=100)

    world.run(scenario)


def charter() -> Charter:
    log = PublishedLog()
    log.add_charter()
    return charter_of(log)


def info(key: ToyKey = OPERATOR, **changes: Any) -> Response:
    signed = sign("charter", replace(charter(), **changes), key)
    return json_response(200, {"charter": to_plain(signed), "now_ms": 1})


@pytest.mark.parametrize("operator", ["", OPERATOR.identity])
def test_the_charter_of_the_operator_is_taken(operator: str) -> None:
    async def ask(market: Market, ledger: Ledger) -> None:
        facts = await market.facts(operator=operator, verify=verify)
        assert facts.params == LOCAL
        assert facts.charter == charter()

    asking(info(), ask)


@pytest.mark.parametrize(
    "reply",
    [
        info(STRANGER),
        info(STRANGER, operator=STRANGER.identity),
        info(network="elsewhere"),
        info(params_digest="0" * 64),
        json_response(200, {}),
        json_response(200, {"charter": {"kind": "charter"}}),
    ],
)
def test_another_charter_is_refused_with_a_remedy(reply: Response) -> None:
    async def ask(market: Market, ledger: Ledger) -> None:
        with pytest.raises(StartRefused) as caught:
            await market.facts(operator=OPERATOR.identity, verify=verify)
        assert caught.value.remedy in str(caught.value)

    asking(reply, ask)


def test_only_served_chutes_with_a_manifest_that_holds_are_probed() -> None:
    forged = listed(CHAT, 1)
    forged["manifest"]["body"]["name"] = "other"
    renamed = {**listed(EMBEDDINGS, 1), "chute": "sha256:" + "0" * 64}
    chutes = [listed(CHAT, 2), listed(EMBEDDINGS, 0), forged, renamed]

    async def ask(market: Market, ledger: Ledger) -> None:
        found = await market.probeable(verify)
        assert [(one.chute, one.modality) for one in found] == [(chute_id(CHAT), Modality.CHAT)]

    asking(json_response(200, {"chutes": chutes}), ask)


@pytest.mark.parametrize(
    "reply",
    [
        Response(200, b"no JSON"),
        Response(200, b"[]"),
        Response(200, b"\xff"),
        json_response(200, {"closed": "x", "settled": 1, "chutes": 5}),
        json_response(500, {}),
    ],
)
def test_an_answer_that_cannot_be_used_is_as_good_as_none(reply: Response) -> None:
    async def ask(market: Market, ledger: Ledger) -> None:
        with pytest.raises(PeerDown):
            await ledger.progress()
        with pytest.raises(PeerDown):
            await market.probeable(verify)

    asking(reply, ask)


def test_a_refusal_tells_its_code_and_words() -> None:
    reply = json_response(409, {"error": {"code": "epoch_settled", "message": "Too late."}})

    async def ask(market: Market, ledger: Ledger) -> None:
        with pytest.raises(PeerRefused) as caught:
            await ledger.report(sign("report", CHAT, OPERATOR))
        assert (caught.value.status, caught.value.code) == (409, "epoch_settled")
        assert "Too late." in str(caught.value)

    asking(reply, ask, method="POST")


def test_a_record_that_is_not_found_is_not_logged_yet() -> None:
    async def ask(market: Market, ledger: Ledger) -> None:
        assert not await ledger.has_logged("o-1")

    asking(json_response(404, {}), ask)


def test_any_other_refusal_of_a_receipt_is_told() -> None:
    async def ask(market: Market, ledger: Ledger) -> None:
        with pytest.raises(PeerRefused):
            await ledger.has_logged("o-1")

    asking(json_response(403, {}), ask)


def test_progress_is_read_whatever_else_is_said() -> None:
    async def ask(market: Market, ledger: Ledger) -> None:
        assert await ledger.progress() == Progress(closed=4, settled=-1)

    asking(json_response(200, {"closed": 4, "settled": -1, "epoch": 5, "new": []}), ask)

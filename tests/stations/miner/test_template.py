"""Messages become tokens in two steps where the engine has a template route of its own."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.makers import GATEWAY, MANIFEST
from tests.stations.miner.answer import Answer
from tests.stations.miner.world import World, playing

from penstock.kit.wire.http import Request, Response, json_response
from penstock.spec.keys import sign
from penstock.spec.receipts import Outcome
from penstock.spec.units import NO_UNITS

QUESTION = msgspec.json.encode(
    {"model": "tiny-chat", "messages": [{"role": "user", "content": "Hi"}]}
)


class Llama:
    """llama.cpp's tokenizer routes; `template` is what its template answers."""

    def __init__(self, template: Response) -> None:
        self.template = template
        self.asked: list[tuple[str, Any]] = []

    async def __call__(self, request: Request) -> Response:
        self.asked.append((request.path, msgspec.json.decode(request.body)))
        if request.path == "/apply-template":
            return self.template
        return json_response(200, {"tokens": [5, 6]})


async def ask(world: World) -> Answer:
    await world.ready()
    order = world.order(QUESTION, path="/tokenize", stream=False, completion_max=0)
    return await world.post(sign("order", order, GATEWAY), QUESTION, path="/tokenize")


def scripted(llama: Llama) -> Any:
    def prepare(world: World) -> None:
        world.market.manifests = [replace(MANIFEST, engine="llamacpp")]
        world.engine_kinds = frozenset({"llamacpp"})
        world.scripted(llama)

    return prepare


def test_the_template_is_asked_first_and_its_prompt_is_taken_apart() -> None:
    llama = Llama(json_response(200, {"prompt": "<user>Hi</user>"}))

    async def scenario(world: World) -> None:
        answer = await ask(world)
        assert msgspec.json.decode(answer.body)["count"] == 2
        assert [path for path, _ in llama.asked] == ["/apply-template", "/tokenize"]
        assert llama.asked[1][1]["content"] == "<user>Hi</user>"
        assert (answer.receipt.outcome, answer.receipt.units) == (Outcome.COMPLETE, NO_UNITS)

    playing(scenario, prepare=scripted(llama))


@pytest.mark.parametrize(
    ("status", "told", "shown"),
    [
        (400, "unsupported content[].type", "unsupported content[].type"),
        (500, "Failed to parse tools: Missing tool function", "Missing tool function"),
        (500, "Failed: [json.exception.type_error.302] type", "a field of it is of the wrong type"),
    ],
)
def test_messages_that_the_template_refuses_are_the_clients_fault(
    status: int, told: str, shown: str
) -> None:
    """Otherwise anybody could have a miner taken for broken with one odd message."""

    async def scenario(world: World) -> None:
        answer = await ask(world)
        assert answer.status == 400
        assert shown in answer.body.decode()
        assert b"json.exception" not in answer.body
        assert (answer.receipt.outcome, answer.receipt.units) == (Outcome.COMPLETE, NO_UNITS)

    refusal = json_response(status, {"error": {"message": told}})
    playing(scenario, prepare=scripted(Llama(refusal)))


@pytest.mark.parametrize(
    "told", [json_response(503, {"error": {"message": "loading"}}), Response(200, b"\xff")]
)
def test_a_template_that_gives_no_prompt_is_the_engines_failure(told: Response) -> None:
    async def scenario(world: World) -> None:
        answer = await ask(world)
        assert (answer.status, answer.error) == (502, "miner_failed")
        assert answer.receipt.outcome is Outcome.MINER_FAILED

    playing(scenario, prepare=scripted(Llama(told)))

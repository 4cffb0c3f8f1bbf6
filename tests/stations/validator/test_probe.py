"""One probe: what it finds in an answer, and that it never takes the validator down."""

from base64 import b64decode
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from tests.client.published_log import VALIDATORS, verify
from tests.stations.validator.world import API_KEY, CHAT, EMBEDDINGS, URLS, World

from penstock.spec.keys import sign
from penstock.spec.messages import Verdict, chute_id
from penstock.spec.verdicts import check_verdict
from penstock.validator.policy import CHAT_PATH, EMBEDDINGS_PATH, Probe
from penstock.validator.probe import Asking, Finding, Found


def chat(*, is_stream: bool) -> Probe:
    body = {"model": chute_id(CHAT), "messages": [], "stream": is_stream}
    return Probe(0, chute_id(CHAT), CHAT_PATH, is_stream, msgspec.json.encode(body))


def embeddings() -> Probe:
    body = msgspec.json.encode({"model": chute_id(EMBEDDINGS), "input": ["x"]})
    return Probe(0, chute_id(EMBEDDINGS), EMBEDDINGS_PATH, is_stream=False, body=body)


PROBES = [chat(is_stream=False), chat(is_stream=True), embeddings()]


def asking(world: World, url: str = URLS.gateway) -> Asking:
    return Asking(
        http=world.client("prober"),
        gateway_url=url,
        verify=verify,
        deadline_ms=30_000,
        answer_bytes_max=1 << 20,
        api_key=API_KEY,
    )


def finding(probe: Probe, world: World, url: str = URLS.gateway) -> Finding:
    found: list[Finding] = []

    async def scenario() -> None:
        found.append(await asking(world, url).ask(probe))

    world.run(scenario)
    return found[0]


@pytest.mark.parametrize("probe", PROBES)
def test_an_honest_answer_is_good(probe: Probe) -> None:
    found = finding(probe, World())
    assert (found.found, found.reason) == (Found.GOOD, "")
    assert found.order_id.startswith("o-")
    assert found.miner


@pytest.mark.parametrize("url", ["http://gateway/v1", "http://gateway/"])
def test_the_base_url_may_be_spelled_like_openais(url: str) -> None:
    assert finding(PROBES[0], World(), url).found is Found.GOOD


@pytest.mark.parametrize("probe", PROBES[:2])
def test_a_receipt_for_more_than_the_answer_holds_is_a_lie_with_its_proof(probe: Probe) -> None:
    world = World()
    world.manners.units_claimed = 200
    found = finding(probe, world)
    assert found.found is Found.LIED
    validator = VALIDATORS[0]
    verdict = Verdict(validator.identity, 1, found.miner, found.order_id, found.transcript)
    proven = check_verdict(sign("verdict", verdict, validator), world.records[0], verify=verify)
    assert proven.miner == found.miner
    assert b"penstock" not in b64decode(found.transcript), "nothing said under the answer"


@pytest.mark.parametrize("probe", PROBES)
def test_an_answer_that_was_changed_on_the_way_is_bad(probe: Probe) -> None:
    world = World()
    world.manners.is_tampered = True
    found = finding(probe, world)
    assert found.found is Found.BAD
    assert "other bytes" in found.reason


@pytest.mark.parametrize("probe", PROBES)
def test_an_answer_that_nobody_signed_is_unsigned(probe: Probe) -> None:
    world = World()
    world.manners.is_unsigned = True
    assert finding(probe, world).found is Found.UNSIGNED


@pytest.mark.parametrize("probe", PROBES)
def test_words_that_are_signed_in_a_batch_are_confirmed_by_the_record(probe: Probe) -> None:
    world = World()
    world.manners.is_sealed = True
    found = finding(probe, world)
    assert (found.found, found.reason) == (Found.GOOD, "")
    assert found.miner


@pytest.mark.parametrize("probe", PROBES)
def test_words_that_nobody_ever_signs_are_unsigned(probe: Probe) -> None:
    world = World()
    world.manners.is_sealed = world.manners.is_never_sealed = True
    assert finding(probe, world).found is Found.UNSIGNED


@pytest.mark.parametrize("probe", PROBES)
def test_a_changed_answer_under_a_seal_is_bad(probe: Probe) -> None:
    world = World()
    world.manners.is_sealed = world.manners.is_tampered = True
    found = finding(probe, world)
    assert found.found is Found.BAD
    assert "other bytes" in found.reason


@pytest.mark.parametrize("probe", PROBES[:2])
def test_a_lie_under_a_seal_has_its_proof_too(probe: Probe) -> None:
    world = World()
    world.manners.is_sealed = True
    world.manners.units_claimed = 200
    found = finding(probe, world)
    assert found.found is Found.LIED
    validator = VALIDATORS[0]
    verdict = Verdict(validator.identity, 1, found.miner, found.order_id, found.transcript)
    assert check_verdict(sign("verdict", verdict, validator), world.records[0], verify=verify)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (402, Found.UNPAID),
        (503, Found.REFUSED),
        (429, Found.REFUSED),
        (502, Found.FAILED),
        (401, Found.FAILED),
    ],
)
def test_a_refusal_is_told_by_its_status(status: int, expected: Found) -> None:
    world = World()
    world.manners.status = status
    assert finding(PROBES[0], world).found is expected


def test_a_gateway_that_is_not_there_is_a_failed_probe() -> None:
    found = finding(PROBES[0], World(), "http://nobody")
    assert found.found is Found.FAILED
    assert "cannot connect" in found.reason


def run_asking(change: Callable[[World, Asking], Awaitable[Finding]]) -> Finding:
    world = World()
    world.log.add_charter()
    found: list[Finding] = []

    async def scenario() -> None:
        found.append(await change(world, asking(world)))

    world.run(scenario)
    return found[0]


def test_a_gateway_that_never_answers_is_given_up() -> None:
    async def wait(world: World, asks: Asking) -> Finding:
        world.network.partition("prober", "gateway")
        found = await asks.ask(PROBES[0])
        world.network.heal()
        return found

    found = run_asking(wait)
    assert found.found is Found.FAILED
    assert "30000 ms" in found.reason


def test_an_answer_without_end_is_given_up() -> None:
    async def bound(world: World, asks: Asking) -> Finding:
        asks.answer_bytes_max = 10
        return await asks.ask(PROBES[1])

    assert run_asking(bound).found is Found.FAILED


def test_the_api_key_is_not_shown() -> None:
    async def look(world: World, asks: Asking) -> Finding:
        assert API_KEY not in repr(asks)
        assert API_KEY not in repr(world.validator())
        return Finding(Found.GOOD)

    assert run_asking(look).found is Found.GOOD

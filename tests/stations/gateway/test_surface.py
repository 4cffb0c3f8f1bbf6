"""The edges of the surface: what is known and not served, wrong methods, how the gateway is."""

import json
from typing import Any

import pytest
from tests.makers import MANIFEST
from tests.stations.gateway.world import URL, World, error_of, play, renamed, settle

from penstock.gateway.directory import Chute
from penstock.gateway.errors import BadRequest
from penstock.gateway.models import model_card, page_of
from penstock.kit.release import commit_in, release
from penstock.kit.wire import scan
from penstock.kit.wire.client import Reply
from penstock.spec.messages import Modality, chute_id

UNSUPPORTED = [
    ("POST", "/v1/assistants"),
    ("GET", "/v1/threads/t-1/messages"),
    ("POST", "/v1/fine_tuning/jobs"),
    ("DELETE", "/v1/vector_stores/vs-1"),
    ("POST", "/v1/uploads/u-1/parts"),
    ("POST", "/v1/realtime/client_secrets"),
    ("POST", "/v1/videos"),
    ("GET", "/v1/containers/c/files/f/content"),
    ("POST", "/v1/evals"),
    ("POST", "/v1/images/edits"),
    ("POST", "/v1/images/variations"),
    ("GET", "/v1/chat/completions/c-1"),
    ("GET", "/v1/responses/r-1/input_items"),
    ("POST", "/v1/responses/compact"),
    ("PATCH", "/v1/conversations/c-1"),
]


async def called(world: World, method: str, path: str) -> Reply:
    return await world.client.call(method, URL + path, body=b"{}", deadline_ms=60_000)


@pytest.mark.parametrize(("method", "path"), UNSUPPORTED)
def test_what_is_known_and_not_served_says_so_once(method: str, path: str) -> None:
    async def scenario(world: World) -> None:
        reply = await called(world, method, path)
        assert reply.status == 501
        assert error_of(reply)["code"] == "unsupported_endpoint"
        assert reply.header("x-should-retry") == "false"

    play(scenario)


def test_anthropics_clients_are_told_in_their_envelope() -> None:
    async def scenario(world: World) -> None:
        reply = await called(world, "POST", "/v1/messages/batches")
        assert reply.status >= 500
        said = json.loads(reply.body)
        assert said["type"] == "error"
        assert "not served here" in said["error"]["message"]

    play(scenario)


@pytest.mark.parametrize("path", ["/v1/nonsense", "/v2/chat/completions", "/", "/v1/audio"])
def test_an_unknown_path_is_not_found(path: str) -> None:
    async def scenario(world: World) -> None:
        reply = await called(world, "GET", path)
        assert reply.status == 404
        assert error_of(reply)["code"] == "route_unknown"

    play(scenario)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("DELETE", "/v1/messages", "POST"),
        ("GET", "/v1/audio/transcriptions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/tiny-chat", "GET"),
        ("POST", "/health", "GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(method: str, path: str, allowed: str) -> None:
    async def scenario(world: World) -> None:
        reply = await called(world, method, path)
        assert reply.status == 405
        assert reply.header("allow") == allowed
        assert error_of(reply)["code"] == "method_not_allowed"

    play(scenario)


def test_it_is_alive_at_once_and_ready_when_there_is_something_to_serve() -> None:
    async def scenario(world: World) -> None:
        assert (await world.get("/livez", secret="")).status == 200
        reply = await world.get("/readyz", secret="")
        assert reply.status == 503
        assert error_of(reply)["code"] == "not_ready"
        assert "no model" in error_of(reply)["message"]
        await world.put_manifest(MANIFEST)
        assert "no instance" in error_of(await world.get("/readyz"))["message"]
        await world.add_miner("m1")
        assert (await world.get("/readyz", secret="")).status == 200
        world.bus.down = True
        for _ in range(10):
            await settle()
        reply = await world.get("/readyz")
        assert "does not answer over the bus" in error_of(reply)["message"]
        assert (await world.get("/livez")).status == 200
        world.bus.down = False
        for _ in range(10):
            await settle()
        assert (await world.get("/readyz")).status == 200

    play(scenario)


def test_the_release_is_told() -> None:
    async def scenario(world: World) -> None:
        told = json.loads((await world.get("/version", secret="")).body)
        here = release()
        assert told == {
            "version": here.version,
            "commit": here.commit,
            "is_compiled": scan.is_compiled,
        }

    play(scenario)


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        ('{"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}', "abc"),
        ('{"url": "file:///x", "dir_info": {"editable": true}}', ""),
        ("{}", ""),
        ("nonsense", ""),
    ],
)
def test_a_commit_is_known_where_the_installer_knows_it(text: str, commit: str) -> None:
    assert commit_in(text) == commit


def chutes(*names: str) -> list[Chute]:
    return [Chute(chute=chute_id(renamed(name)), manifest=renamed(name)) for name in names]


def paged(limit: str = "", after: str = "", before: str = "") -> tuple[list[str], bool]:
    found, has_more = page_of(
        chutes("a", "b", "c", "d"), limit=limit, after_id=after, before_id=before
    )
    return [one.manifest.name for one in found], has_more


def test_models_come_whole_or_in_pages() -> None:
    assert paged() == (["a", "b", "c", "d"], False)
    assert paged(limit="3") == (["a", "b", "c"], True)
    assert paged(limit="3", after="b") == (["c", "d"], False)
    assert paged(limit="1", before="c") == (["b"], True)
    assert paged(after="d") == ([], False)
    for limit in ("0", "1001", "x", "-1"):
        with pytest.raises(BadRequest):
            paged(limit=limit)


def test_a_page_goes_on_where_a_model_was_that_has_gone() -> None:
    assert paged(limit="2", after="bb") == (["c", "d"], False)
    assert paged(limit="1", before="bb") == (["b"], True)
    assert paged(after="zz") == ([], False)


@pytest.mark.parametrize("modality", list(Modality))
def test_a_model_has_the_fields_of_every_client(modality: Modality) -> None:
    """The required fields of OpenAI's Model, Anthropic's ModelInfo and OpenRouter's Model."""
    (chute,) = chutes("a/b")
    chute = Chute(chute=chute.chute, manifest=renamed("a/b", modality=modality))
    card: dict[str, Any] = model_card(chute, instances=2)
    assert {"id", "object", "created", "owned_by"} <= card.keys()
    assert {"type", "display_name", "created_at", "lifecycle"} <= card.keys()
    assert {"canonical_slug", "name", "architecture", "context_length", "pricing"} <= card.keys()
    assert {"default_parameters", "links", "per_request_limits"} <= card.keys()
    assert {"supported_parameters", "supported_voices", "top_provider"} <= card.keys()
    assert (card["object"], card["type"], card["lifecycle"]) == ("model", "model", "active")
    assert all(isinstance(price, str) for price in card["pricing"].values())
    assert card["architecture"]["input_modalities"]
    assert isinstance(card["top_provider"]["is_moderated"], bool)

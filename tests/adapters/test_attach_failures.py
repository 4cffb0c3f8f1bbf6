"""Attaching to servers that are broken in the ways real ones are: said in words, never a crash."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from tests.engine_makers import DEADLINE_MS

from penstock.adapters.engines.asker import dig, parsed
from penstock.adapters.engines.openai_http import OpenaiHttp, parse_source
from penstock.kit.engine import Capability, EngineFailed
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.problem import problem
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

Handler = Callable[[Request], Awaitable[Response]]
MODELS = {"data": [{"id": "m"}, {"id": "other"}]}
CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}}]}


def page(body: bytes, status: int = 200) -> Response:
    return Response(status, body, headers=(("content-type", "text/html"),))


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    server = Server(Sockets(), handler, entropy=os.urandom)
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.close(0)


def attached(source: str) -> OpenaiHttp:
    return OpenaiHttp(source, network=Sockets(), watch_every_ms=20)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (page(b"<html>Welcome to nginx!</html>"), "answered 200 and names \\[\\]"),
        (page(b"\xff\xfe\xfd"), "answered 200 and names \\[\\]"),
        (page(b'{"data": [{"id": "\xff"}]}'), "answered 200 and names \\[\\]"),
        (page(b"[" * 50_000), "answered 200 and names \\[\\]"),
        (page(b""), "answered 200 and names \\[\\]"),
        (page(b"null"), "answered 200 and names \\[\\]"),
        (json_response(200, {"data": []}), "answered 200 and names \\[\\]"),
        (json_response(200, {"data": {"id": "m"}}), "answered 200 and names \\[\\]"),
        (json_response(200, {"models": ["m"]}), "answered 200 and names \\[\\]"),
        (problem(401, "unauthorized", "no key"), "answered 401"),
        (problem(503, "loading", "Loading model"), "answered 503"),
        (json_response(404, MODELS), "answered 404"),
    ],
    ids=[
        "another web server",
        "no text",
        "a name that is no text",
        "nested without end",
        "nothing",
        "null",
        "no models",
        "one model that is no list",
        "another shape",
        "a key is asked for",
        "still loading",
        "not found but with models",
    ],
)
async def test_a_server_that_names_no_model_is_told_with_what_it_said(
    answer: Response, why: str
) -> None:
    async def handler(_request: Request) -> Response:
        return answer

    async with served(handler) as address:
        engine = attached(f"{address}#m")
        with pytest.raises(EngineFailed, match=why) as refused:
            await engine.start(deadline_ms=700)
        assert refused.value.remedy == f"Look at it: curl {address}/v1/models"
        assert not (await engine.stats()).ready
        await engine.stop(deadline_ms=0)


async def test_a_server_that_never_answers_is_given_up_at_the_deadline() -> None:
    release = asyncio.Event()

    async def handler(_request: Request) -> Response:
        await release.wait()
        return page(b"")

    async with served(handler) as address:
        engine = attached(address)
        with pytest.raises(EngineFailed, match="was not ready after 300 ms"):
            await engine.start(deadline_ms=300)
        release.set()
        await engine.stop(deadline_ms=0)


async def test_a_server_that_loads_its_model_is_waited_for() -> None:
    asked = 0

    async def handler(request: Request) -> Response:
        nonlocal asked
        if request.path == "/v1/models":
            asked += 1
            return json_response(200, MODELS) if asked > 2 else problem(503, "loading", "soon")
        return json_response(200, CHAT)

    async with served(handler) as address:
        engine = attached(f"{address}#other")
        await engine.start(deadline_ms=DEADLINE_MS)
        assert engine.model == "other"
        assert asked > 2
        await engine.stop(deadline_ms=0)


@pytest.mark.parametrize("cut", [0, 1, 30])
async def test_a_server_that_hangs_up_in_mid_answer_is_not_ready(cut: int) -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(whole[:cut])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        engine = attached(f"http://127.0.0.1:{port}")
        with pytest.raises(EngineFailed, match="was not ready"):
            await engine.start(deadline_ms=700)
        await engine.stop(deadline_ms=0)


@pytest.mark.parametrize(
    "answer", [page(b"\xff"), page(b"{" * 50_000), page(b"no"), json_response(200, {})]
)
async def test_a_server_whose_answers_make_no_sense_can_do_nothing(answer: Response) -> None:
    async def handler(request: Request) -> Response:
        return json_response(200, MODELS) if request.path == "/v1/models" else answer

    async with served(handler) as address:
        engine = attached(address)
        with pytest.raises(EngineFailed, match="answered no test request"):
            await engine.start(deadline_ms=DEADLINE_MS)
        assert engine.capabilities == frozenset()
        await engine.stop(deadline_ms=0)


async def test_only_what_was_shown_is_believed_of_a_server_that_says_yes_to_everything() -> None:
    """Each answer is well formed, none shows a stream, a schema, a tool or a seed."""

    async def handler(request: Request) -> Response:
        if request.path == "/v1/models":
            return json_response(200, MODELS)
        if request.path == "/v1/embeddings":
            return json_response(200, {"data": [{"embedding": []}]})
        return json_response(200, CHAT)

    async with served(handler) as address:
        engine = attached(address)
        await engine.start(deadline_ms=DEADLINE_MS)
        assert engine.capabilities == {Capability.CHAT}
        await engine.stop(deadline_ms=0)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (page(b'vllm:num_requests_running{engine="0"} 3.0\n'), (3, 0)),
        (page(b"sglang:num_queue_reqs 4\n\xff\xfe broken line 1\n"), (0, 4)),
        (page(b'vllm:num_requests_running{engine="0"} 3.0\n', status=500), (0, 0)),
        (problem(404, "not_found", "no metrics"), (0, 0)),
    ],
)
async def test_gauges_are_read_where_there_are_any(
    metrics: Response, expected: tuple[int, int]
) -> None:
    async def handler(request: Request) -> Response:
        if request.path == "/metrics":
            return metrics
        return json_response(200, MODELS if request.path == "/v1/models" else CHAT)

    async with served(handler) as address:
        engine = attached(address)
        await engine.start(deadline_ms=DEADLINE_MS)
        stats = await engine.stats()
        assert (stats.running, stats.waiting, stats.ready) == (*expected, True)
        await engine.stop(deadline_ms=0)


async def test_missing_one_check_is_no_exit_and_missing_three_in_a_row_is() -> None:
    gone = {2, 4, 5, 8, 9, 10}
    asked = 0

    async def handler(request: Request) -> Response:
        nonlocal asked
        if request.path != "/v1/models":
            return json_response(200, CHAT)
        if not is_watching:
            return json_response(200, MODELS)
        asked += 1
        return problem(500, "broken", "x") if asked in gone else json_response(200, MODELS)

    is_watching = False
    async with served(handler) as address:
        engine = attached(address)
        await engine.start(deadline_ms=DEADLINE_MS)
        is_watching = True
        async with asyncio.timeout(DEADLINE_MS / 1000):
            ended = await engine.wait_exit()
        assert asked == 10
        assert not ended.wanted
        assert "answered 500" in ended.reason
        await engine.stop(deadline_ms=0)


async def test_stopping_while_watched_is_an_exit_that_was_wanted() -> None:
    async def handler(request: Request) -> Response:
        return json_response(200, MODELS if request.path == "/v1/models" else CHAT)

    async with served(handler) as address:
        engine = attached(address)
        await engine.start(deadline_ms=DEADLINE_MS)
        watching = asyncio.ensure_future(engine.wait_exit())
        await asyncio.sleep(0)
        await engine.stop(deadline_ms=0)
        async with asyncio.timeout(DEADLINE_MS / 1000):
            ended = await watching
        assert (ended.wanted, ended.reason) == (True, "stopped")


@pytest.mark.parametrize("source", ["", "h:1", "ftp://h", "//h", "http:/h", "file:///etc/passwd"])
def test_what_is_no_http_address_is_refused_with_itself(source: str) -> None:
    with pytest.raises(ValueError, match="starts with http"):
        parse_source(source)


@pytest.mark.parametrize("text", [b"", b"\xff", b'"\xff"', b"[" * 100_000, b"{", b"01", b"NaN"])
def test_text_that_is_no_json_is_nothing_and_no_error(text: bytes) -> None:
    assert parsed(text) is None
    assert dig(parsed(text), "data", 0) is None

"""What a gateway on a real socket does with input that is wrong: it says what, in the caller's words,
never with a 500, and nothing stays behind: no connection, task, passage or hold.
"""

import asyncio
import json
from typing import Any

import pytest
from tests.stations.gateway.real_world import (
    BODY_BYTES_MAX,
    CHAT,
    DEADLINE_S,
    MESSAGES,
    RESPONSES,
    head_of,
    real_world,
)
from tests.stations.gateway.refusals import PATHS, check_refusal, good, spelled, still_serves
from tests.stations.gateway.script import Script
from tests.stations.gateway.world import ALIAS, SECRET

from penstock.gateway.files_site import UploadSite
from penstock.gateway.routes import build_routes
from penstock.kit.wire.server import Worded

HUGE_BODY_BYTES = 100 << 20


NO_JSON = {
    "nothing": b"",
    "spaces": b"   \r\n",
    "half an object": b'{"model": "tiny-chat", ',
    "two objects": b"{}{}",
    "a list": b"[]",
    "null": b"null",
    "a number": b"5",
    "a text": b'"chat"',
    "NUL": b"\x00" * 64,
    "a NUL in a text": b'{"model": "tiny\x00chat", "messages": []}',
    "invalid UTF-8": b'{"model": "\xff\xfe", "messages": [{"role": "user", "content": "a"}]}',
    "half a surrogate": b'{"model": "\\ud800", "messages": [{"role": "user"}], "input": "a"}',
    "UTF-16": json.dumps({"model": ALIAS}).encode("utf-16"),
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "single quotes": b"{'model': 'tiny-chat'}",
    "a trailing comma": b'{"model": "tiny-chat",}',
    "not a number": b'{"model": NaN}',
    "a form": b"model=tiny-chat&stream=true",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}


async def test_what_is_no_json_object_is_said_to_be_none() -> None:
    async with real_world() as world:
        for path in PATHS:
            for name, body in NO_JSON.items():
                heard = await world.post(path, body)
                assert heard.status in {400, 404}, name
                check_refusal(heard, path, statuses=(400, 404))
        await still_serves(world)


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 1e300, -(10**40), 10**400, "", "text", "\x00", "\ud800"),
    *([], [[]], [None], {}, {"a": 1}, [1, "a", {}], "x" * 5_000),
)
FIELDS = {
    CHAT: (
        *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
        *("n", "seed", "temperature", "top_p", "presence_penalty", "frequency_penalty", "stop"),
        *(
            "provider",
            "logprobs",
            "top_logprobs",
            "tools",
            "tool_choice",
            "response_format",
            "user",
        ),
    ),
    MESSAGES: (
        *("model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k"),
        *("stop_sequences", "tools", "tool_choice", "metadata", "thinking", "provider"),
    ),
    RESPONSES: (
        *("model", "input", "instructions", "max_output_tokens", "stream", "temperature", "top_p"),
        *("tools", "tool_choice", "text", "reasoning", "metadata", "previous_response_id", "store"),
        *("include", "truncation", "parallel_tool_calls", "provider"),
    ),
}


def spelled_odd(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=True).encode()


@pytest.mark.parametrize("path", PATHS)
async def test_a_wrong_type_anywhere_is_named_or_passed_on_but_never_a_bug(path: str) -> None:
    async with real_world() as world:
        world.miner.default = Script(words=("a",), word_ms=0)
        for name in FIELDS[path]:
            for value in ODD:
                heard = await world.post(path, spelled_odd({**good(path), name: value}))
                if heard.status != 200:
                    check_refusal(heard, path, statuses=(400, 404, 501))
        await still_serves(world)


@pytest.mark.parametrize("path", PATHS)
async def test_odd_values_inside_the_conversation_are_no_bug_either(path: str) -> None:
    place = "input" if path == RESPONSES else "messages"
    async with real_world() as world:
        world.miner.default = Script(words=("a",), word_ms=0)
        for value in ODD:
            for turns in (
                [value],
                [{"role": value, "content": "a"}],
                [{"role": "user", "content": value}],
                [{"role": "user", "content": [value]}],
                [{"role": "user", "content": [{"type": value}]}],
                [{"role": "user", "content": [{"type": "text", "text": value}]}],
                [{"role": "user", "content": [{"type": "image", "source": value}]}],
                [{"role": "user", "content": [{"type": "image_url", "image_url": value}]}],
                [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": value}]}],
                [{"role": "assistant", "content": "", "tool_calls": value}],
                [{"type": value, "call_id": value, "output": value, "name": value}],
                [{"type": "function_call", "call_id": "a", "name": "b", "arguments": value}],
            ):
                heard = await world.post(path, spelled_odd({**good(path), place: turns}))
                if heard.status != 200:
                    check_refusal(heard, path, statuses=(400, 404, 501))
        await still_serves(world)


@pytest.mark.parametrize("path", PATHS)
async def test_unknown_models_and_keys_are_told_apart(path: str) -> None:
    async with real_world() as world:
        for model in (
            "nobody/knows",
            "sha256:" + "0" * 64,
            "tiny-chat@sha256:" + "0" * 64,
            ":",
            ",",
        ):
            heard = await world.post(path, spelled(path, model=model))
            check_refusal(heard, path, statuses=(400, 404))
        long = await world.post(path, spelled(path, model="m" * 100_000))
        check_refusal(long, path, statuses=(400, 404))
        assert len(long.body) < 10_000, "what was wrong is not sent back whole"
        for secret in (
            "",
            "nonsense",
            "sk-penstock-wrong",
            "sk-penstock-" + "x" * 5_000,
            "\xff\xfe",
        ):
            heard = await world.post(path, spelled(path), secret=secret)
            check_refusal(heard, path, statuses=(401,))
        await still_serves(world)


@pytest.mark.parametrize("path", PATHS)
async def test_a_key_that_was_closed_is_refused_from_then_on(path: str) -> None:
    async with real_world() as world:
        assert (await world.post(path, spelled(path))).status == 200
        world.ledger.keys.clear()
        world.gateway.leases.close()
        world.gateway.admission._keys.clear()
        heard = await world.post(path, spelled(path))
        check_refusal(heard, path, statuses=(401,))


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_of_100_mb_is_refused_at_its_length(path: str) -> None:
    async with real_world() as world:
        line = await world.dial()
        await line.send(head_of(path, length=HUGE_BODY_BYTES))
        heard = await line.hear()
        check_refusal(heard, path, statuses=(413,))
        assert str(BODY_BYTES_MAX) in heard.error["message"]
        await still_serves(world)


@pytest.mark.parametrize("path", PATHS)
async def test_a_chunked_body_of_100_mb_is_refused_as_soon_as_it_is_too_much(path: str) -> None:
    async with real_world() as world:
        line = await world.dial()
        await line.send(head_of(path))
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while sent < HUGE_BODY_BYTES and not line.writer.is_closing():
                await line.send(chunk)
                sent += len(chunk)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            flooding = group.create_task(flood())
            heard = await line.hear()
            flooding.cancel()
        check_refusal(heard, path, statuses=(413,))
        assert world.server.held_bytes <= BODY_BYTES_MAX
        await still_serves(world)


@pytest.mark.parametrize("path", PATHS)
async def test_more_bodies_than_there_is_memory_for_are_refused(path: str) -> None:
    async with real_world(bodies_bytes_max=BODY_BYTES_MAX) as world:
        lines = [await world.dial() for _ in range(4)]
        for line in lines:
            await line.send(head_of(path, length=BODY_BYTES_MAX - 1) + b"x" * (BODY_BYTES_MAX // 2))
        # Which of them is one too many depends on whose bytes come first.
        waiting = [asyncio.ensure_future(line.hear()) for line in lines]
        done, others = await asyncio.wait(
            waiting, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED
        )
        refused = done.pop().result()
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert world.server.held_bytes <= BODY_BYTES_MAX
        assert refused.status == (529 if path == MESSAGES else 503)
        assert refused.headers["retry-after"] == "1"
        await world.alone()
        await still_serves(world)


HEAD_BOMBS = {
    "one long header": b"x-long: " + b"a" * 200_000,
    "many headers": b"\r\n".join(b"x-%d: a" % number for number in range(5_000)),
    "a long path": None,
    "a header without a name": b": nobody",
    "a folded header": b"x-a: b\r\n c",
    "a NUL": b"x-a: \x00",
    "two lengths": b"content-length: 5\r\ncontent-length: 6",
    "a length that is none": b"content-length: -1",
    "a huge length": b"content-length: " + b"9" * 400,
    "length and chunks": b"content-length: 5\r\ntransfer-encoding: chunked",
    "an unknown coding": b"transfer-encoding: gzip",
}


async def test_heads_that_are_too_much_or_malformed_are_refused_and_the_line_closed() -> None:
    async with real_world() as world:
        for name, bomb in HEAD_BOMBS.items():
            line = await world.dial()
            path = CHAT if bomb is not None else CHAT + "a" * 100_000
            first = b"POST %b HTTP/1.1\r\nhost: gateway\r\n%b\r\n\r\n" % (
                path.encode(),
                bomb or b"x: y",
            )
            await line.send(first)
            heard = await line.hear()
            assert 400 <= heard.status < 500 or heard.status == 501, name
            assert heard.error["code"], name
            assert heard.error["request_id"] == heard.headers["x-request-id"]
            assert await line.hear_end() == b"", name
        await still_serves(world)


async def test_bytes_that_are_no_http_are_refused() -> None:
    async with real_world() as world:
        for noise in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
            b"\x00" * 100,
            b"GET\r\n\r\n",
            b"a\n\n",
        ):
            line = await world.dial()
            await line.send(noise)
            line.writer.write_eof()
            said = await line.hear_end()
            assert not said or said.startswith(b"HTTP/1.1 4"), said[:100]
        await still_serves(world)


async def test_a_storm_of_bad_requests_leaves_the_metrics_bounded() -> None:
    """Names that come from outside are no labels: else strangers could fill our memory."""
    async with real_world() as world:
        for number in range(50):
            await world.post(CHAT, spelled(CHAT, model=f"nobody/{number}"))
            await world.post(f"/v1/{number}", b"{}")
        before = len(world.gateway.metrics.render().splitlines())
        for number in range(50, 150):
            await world.post(CHAT, spelled(CHAT, model=f"nobody/{number}"))
            await world.post(f"/v1/{number}", b"{}", secret=f"sk-penstock-{number}")
        assert len(world.gateway.metrics.render().splitlines()) <= before + 10
        assert SECRET not in world.gateway.metrics.render().decode()


async def test_a_gateway_that_keeps_files_says_its_refusals_in_the_same_words() -> None:
    async with real_world() as world:
        site = UploadSite(build_routes(world.gateway), None, world.gateway.metrics)  # type: ignore[arg-type]  # no file is asked for
        assert isinstance(site, Worded)
        assert site.reword is not None

"""The first words on a reverse connection when one end is hostile, confused, slow, or not who it says."""

import asyncio
import json
from typing import Any

import pytest
from tests.kit.tunnels import HOST_OF_NODE, KEY, NODE, Both, play, until
from tests.kit.world import HOST, MemoryWorld, Raw, World
from tests.makers import GATEWAY, MINER, OWNER, ToyKey

from penstock.kit.wire.tunnel_greeting import (
    GREETING_DEADLINE_MS,
    LINE_BYTES_MAX,
    Line,
    TunnelRefused,
)
from penstock.kit.wire.tunnel_keeper import KeeperLimits
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.tunnels import GREETING_KIND, HELLO_KIND, TunnelGreeting, TunnelHello

NESTED = b'{"greeting":' + b"[" * 2_000 + b"]" * 2_000 + b"}\n"


async def greeting_of(both: Both, raw: Raw, *, key: ToyKey = MINER, **changes: Any) -> bytes:
    """What this connection should say, but for some changes."""
    said = json.loads(await raw.until(b"\n"))
    fields = {
        "miner": key.identity,
        "node": NODE,
        "gateway": GATEWAY.identity,
        "channel": both.road.channel_of(raw.transport),
        "challenge": said["challenge"],
    }
    signed = sign(GREETING_KIND, TunnelGreeting(**{**fields, **changes}), key)
    return json.dumps({"greeting": to_plain(signed)}).encode() + b"\n"


async def refusal(raw: Raw) -> str:
    """The code with which the door closes."""
    said = await raw.until_closed()
    return str(json.loads(said.splitlines()[-1])["error"]["code"])


def test_a_good_greeting_is_taken(world: World) -> None:
    async def story(both: Both) -> None:
        raw = await both.raw()
        raw.transport.write(await greeting_of(both, raw))
        assert (await raw.until(b"\n", times=2)).endswith(b'{"ok":true}\n')
        assert both.door.seen == [NODE]
        assert both.client.is_here(HOST_OF_NODE)
        raw.transport.abort()
        await until(lambda: both.client.links == 0)

    play(world, story)


def test_a_greeting_may_come_byte_by_byte(virtual: MemoryWorld) -> None:
    async def story(both: Both) -> None:
        raw = await both.raw()
        for byte in await greeting_of(both, raw):
            raw.transport.write(bytes([byte]))
        await raw.until(b"\n", times=2)
        assert both.door.seen == [NODE]

    play(virtual, story)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"key": OWNER}, "miner_unknown"),
        ({"key": OWNER, "miner": MINER.identity}, "bad_greeting"),
        ({"gateway": OWNER.identity}, "bad_greeting"),
        ({"channel": "00" * 32}, "bad_greeting"),
        ({"challenge": "00" * 32}, "bad_greeting"),
        ({"node": "../../x"}, "bad_greeting"),
    ],
)
def test_a_word_that_is_not_for_this_connection_is_refused(
    world: World, changes: dict[str, Any], code: str
) -> None:
    async def story(both: Both) -> None:
        raw = await both.raw()
        raw.transport.write(await greeting_of(both, raw, **changes))
        assert await refusal(raw) == code
        assert both.client.links == both.door.greeting == 0

    play(world, story)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\n", "bad_greeting"),
        (b"null\n", "bad_greeting"),
        (b"\xff\xfe\n", "bad_greeting"),
        (b'{"greeting":null}\n', "bad_greeting"),
        (NESTED[:LINE_BYTES_MAX] + b"\n", "bad_greeting"),
        (b"x" * (LINE_BYTES_MAX + 1), "line_too_long"),
        (b"x" * (LINE_BYTES_MAX + 1) + b"\n", "line_too_long"),
        (b"GET / HTTP/1.1\r\n\r\n", "bad_greeting"),
    ],
)
def test_nonsense_is_refused(world: World, line: bytes, code: str) -> None:
    async def story(both: Both) -> None:
        raw = await both.raw()
        await raw.until(b"\n")
        raw.transport.write(line)
        assert await refusal(raw) == code
        assert both.door.greeting == 0

    play(world, story)


def test_a_greeting_with_more_behind_it_is_refused(world: World) -> None:
    """An answer that comes before its question would be taken for the next one's."""

    async def story(both: Both) -> None:
        raw = await both.raw()
        raw.transport.write(await greeting_of(both, raw) + b"HTTP/1.1 200 OK\r\n\r\n")
        assert await refusal(raw) == "bad_greeting"

    play(world, story)


def test_a_replayed_greeting_is_refused(world: World) -> None:
    async def story(both: Both) -> None:
        first = await both.raw()
        line = await greeting_of(both, first)
        first.transport.write(line)
        await first.until(b"\n", times=2)
        second = await both.raw()
        await second.until(b"\n")
        second.transport.write(line)
        assert await refusal(second) == "bad_greeting"
        assert both.client.links == 1

    play(world, story)


def test_who_never_greets_is_cut_and_frees_the_door(virtual: MemoryWorld) -> None:
    async def story(both: Both) -> None:
        loop = asyncio.get_running_loop()
        idle = [await both.raw() for _ in range(8)]
        for one in idle:
            await one.until(b"\n")
            one.transport.write(b'{"greeting":')
        late = await both.raw()
        assert await refusal(late) == "busy"
        began = loop.time()
        for one in idle:
            await one.until_closed()
        assert loop.time() - began < GREETING_DEADLINE_MS / 1000 + 1
        assert both.door.greeting == 0
        await greeting_of(both, await both.raw())

    play(virtual, story)


def test_who_leaves_before_greeting_frees_the_door(world: World) -> None:
    async def story(both: Both) -> None:
        for _ in range(20):
            raw = await both.raw()
            await raw.until(b"\n")
            raw.transport.abort()
            await until(lambda: both.door.greeting == 0)

    play(world, story)


def test_a_miner_that_talks_out_of_turn_is_cut(world: World) -> None:
    async def story(both: Both) -> None:
        raw = await both.raw()
        raw.transport.write(await greeting_of(both, raw))
        await raw.until(b"\n", times=2)
        raw.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await raw.until_closed()
        await until(lambda: both.client.links == 0)
        assert both.client.idle_link(KEY) is None

    play(world, story)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\nmore",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_a_miner_that_answers_pings_with_something_else_is_cut(
    virtual: MemoryWorld, answer: bytes
) -> None:
    async def story(both: Both) -> None:
        raw = await both.raw()
        raw.transport.write(await greeting_of(both, raw))
        await raw.until(b"/v1/tunnel/ping")
        raw.transport.write(answer)
        await raw.until_closed()
        await until(lambda: both.client.links == 0)

    play(virtual, story)


# The miner's side.


async def why_not(both: Both, **changes: Any) -> str:
    """The code with which a miner does not turn."""
    turned: list[str] = []

    def turn(gateway: str, transport: asyncio.Transport, rest: bytes) -> None:
        del rest
        turned.append(gateway)
        transport.abort()

    with pytest.raises(TunnelRefused) as caught:
        await both.call(both.party(**changes), turn)
    assert turned == []
    return caught.value.code


def test_a_miner_believes_only_chartered_gateways(world: World) -> None:
    async def story(both: Both) -> None:
        assert await why_not(both, is_gateway=lambda _: False) == "gateway_unknown"
        both.door.key = OWNER
        assert await why_not(both) == "gateway_unknown"

    play(world, story)


def test_somebody_in_between_is_noticed_by_the_miner(world: World) -> None:
    """The hello is passed on word for word, but over another TLS connection than the gateway's."""

    async def story(both: Both) -> None:
        both.door.channel = "00" * 32
        assert await why_not(both) == "bad_hello"

    play(world, story)


def test_without_tls_there_is_no_channel_to_believe_in(world: World) -> None:
    async def story(both: Both) -> None:
        assert await why_not(both, channel_of=lambda _: "") == "bad_hello"

    play(world, story)


def test_a_refusal_is_passed_on_with_its_reason(world: World) -> None:
    async def story(both: Both) -> None:
        assert await why_not(both, key=OWNER) == "miner_unknown"
        both.door.greeting_max = 0
        assert await why_not(both) == "busy"

    play(world, story)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([b"nonsense\n"], "bad_line"),
        ([b"[]\n"], "bad_line"),
        ([b"{}\n"], "bad_hello"),
        ([NESTED[:4_000] + b"\n"], "bad_line"),
        ([b"x" * (LINE_BYTES_MAX + 1)], "line_too_long"),
        ([b"HELLO", b"{}\n"], "refused"),
        ([b"HELLO", b'{"ok":1}\n'], "refused"),
        ([b"HELLO", b'{"error":"x"}\n'], "refused"),
        ([b"HELLO", b'{"error":{"code":"teapot","message":"m"}}\n'], "teapot"),
        ([b"HELLO{}\n"], "bad_hello"),
        ([b"HELLO", b""], "cut"),
        ([b""], "cut"),
    ],
)
def test_a_gateway_that_talks_nonsense_is_left(
    virtual: MemoryWorld, lines: list[bytes], code: str
) -> None:
    """`HELLO` stands for a good one; an empty line closes the connection."""

    async def story(both: Both) -> None:
        async def talk() -> None:
            await until(lambda: talkers)
            for line in lines:
                hello = sign(
                    HELLO_KIND, TunnelHello(GATEWAY.identity, channel, now_ms, now_ms + 9), GATEWAY
                )
                said = json.dumps({"hello": to_plain(hello), "challenge": "ab" * 32}).encode()
                talkers[0].transport.write(line.replace(b"HELLO", said + b"\n"))
                if not line:
                    talkers[0].transport.close()
                elif line != lines[-1]:
                    await talkers[0].until(b"\n")

        talkers: list[Raw] = []

        def made() -> Raw:
            talkers.append(Raw())
            return talkers[-1]

        await both.listener.close()
        both.listener = await both.network.listen(HOST, both.listener.port, made)
        now_ms, channel = both.clock.now_ms(), both.door.channel
        talking = both.scope.start("talk", talk())
        assert await why_not(both) == code
        await talking
        await talkers[0].until_closed()

    play(virtual, story)


def test_a_keeper_says_why_and_tries_again_ever_more_slowly(virtual: MemoryWorld) -> None:
    async def story(both: Both) -> None:
        both.door.known.clear()
        keeper = both.miner(limits=KeeperLimits(retry_ms_min=100, retry_ms_max=1_000))
        both.scope.start("keeper", keeper.run())
        await asyncio.sleep(60)
        tries = len(both.door.challenges)
        assert 60 <= tries <= 130, "about once a second"
        assert keeper.why.startswith("miner_unknown: ")
        both.door.known.add(MINER.identity)
        await asyncio.sleep(2)
        assert (keeper.links, keeper.why) == (4, "")

    play(virtual, story)


def test_a_gateway_that_lets_in_and_drops_is_not_dialled_in_a_loop(virtual: MemoryWorld) -> None:
    async def story(both: Both) -> None:
        keeper = both.miner(limits=KeeperLimits(retry_ms_min=200, retry_ms_max=1_000))
        both.client.on_change = lambda *_: None
        adopt = both.client.adopt

        def drop(host: str, transport: asyncio.Transport) -> None:
            adopt(host, transport)
            transport.abort()

        both.client.adopt = drop  # type: ignore[method-assign]  # a gateway that misbehaves
        both.scope.start("keeper", keeper.run())
        await asyncio.sleep(30)
        assert 10 < len(both.door.seen) < 80, "about once a second, and a few at first"

    play(virtual, story)


def test_a_line_is_cut_where_it_ends() -> None:
    line = Line()
    assert line.feed(b"ab") is None
    assert line.feed(b"c\nde\nf") == b"abc"
    assert line.rest == b"de\nf"

"""A gateway's answer played back: whatever status, headers and bytes a test wants, cut anywhere."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from penstock.client.client import AnswerStream, AsyncClient
from penstock.client.testing import FakeMarket, FakeReply
from penstock.kit.errors import PeerClosed, WireError

TEXT = "Water turns the wheel."


@dataclass
class PlayedReply:
    """A reply in these chunks; `ends_with` is raised where a real one would break off."""

    status: int
    parts: Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)
    ends_with: WireError | None = None

    def header(self, name: str) -> str:
        return self.headers.get(name.lower(), "")

    async def chunks(self, *, idle_deadline_ms: int) -> AsyncIterator[bytes]:
        assert idle_deadline_ms > 0, "a real reply needs a deadline"
        for part in self.parts:
            yield part
        if self.ends_with is not None:
            raise self.ends_with

    async def read(self, *, bytes_max: int, idle_deadline_ms: int) -> bytes:
        parts = [part async for part in self.chunks(idle_deadline_ms=idle_deadline_ms)]
        assert len(b"".join(parts)) <= bytes_max
        return b"".join(parts)


@dataclass
class Played:
    """A transport that answers every request with the same reply, or with an error on opening."""

    reply: PlayedReply
    refuses: WireError | None = None
    opened: int = 0
    left: int = 0
    closed: int = 0

    async def close(self) -> None:
        self.closed += 1

    @asynccontextmanager
    async def open_stream(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        head_deadline_ms: int,
    ) -> AsyncIterator[PlayedReply]:
        assert head_deadline_ms > 0, "a real call needs a deadline"
        if self.refuses is not None:
            raise self.refuses
        self.opened += 1
        try:
            yield self.reply
        finally:
            self.left += 1


def played(
    *parts: bytes,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    breaks: bool = False,
) -> Played:
    """A transport that says this; with `breaks` the connection is lost after it."""
    lost = PeerClosed(sum(map(len, parts))) if breaks else None
    return Played(PlayedReply(status, parts, headers or {}, lost))


def calls(transport: Played) -> AsyncClient:
    return AsyncClient("http://gateway", "sk-test", transport)


async def signed_stream(text: str = TEXT) -> bytes:
    """The bytes of a streamed answer that miner and gateway signed."""
    return (await _reply(text, stream=True)).body


async def signed_answer(text: str = TEXT) -> FakeReply:
    """A whole answer that miner and gateway signed, with its headers."""
    return await _reply(text, stream=False)


async def _reply(text: str, *, stream: bool) -> FakeReply:
    market = FakeMarket({"m": text}, seals=False)
    asked = b'{"model":"m","messages":[],"stream":%b}' % (b"true" if stream else b"false")
    async with market.open_stream(
        "POST",
        "http://fake/v1/chat/completions",
        headers=(("authorization", "Bearer x"),),
        body=asked,
        head_deadline_ms=1,
    ) as reply:
        return reply


async def hear(transport: Played) -> AnswerStream:
    """Read one streamed answer to its end. Raises what the client raises."""
    async with calls(transport) as client, client.stream_chat("m", "Hi") as stream:
        async for _ in stream:
            pass
        return stream

"""The first words on a reverse connection, before its ends change their roles.

Three lines of JSON: the gateway's `{"hello": Signed, "challenge": hex}`, the miner's `{"greeting":
Signed}`, and the gateway's `{"ok": true}` or `{"error": {"code", "message"}}`. After `ok` the gateway
asks HTTP/1.1 requests over the connection and the miner answers them. Every line has a bound, all of
them together a deadline, and nothing may stand behind a line that is not the last.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import msgspec

from penstock.kit.errors import WireError
from penstock.kit.ports import Clock, Sign, Verify
from penstock.kit.wire.tunnel_road import ChannelOf, stay_alert
from penstock.spec.canon import to_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, parse_signed, sign
from penstock.spec.tunnels import (
    GREETING_KIND,
    TunnelGreeting,
    TunnelHello,
    check_greeting,
    check_hello,
)

LINE_BYTES_MAX = 4_096
GREETING_DEADLINE_MS = 5_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_OK = b'{"ok":true}\n'
_UNREADABLE = (SpecError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class TunnelRefused(WireError):
    """One end would not have the other. `code` says why for programs, `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Opening:
    """What a gateway says first on one connection."""

    hello: TunnelHello
    signed: Signed
    challenge: str


class Door(Protocol):
    """Who lets miners in."""

    @property
    def verify(self) -> Verify:
        """How signatures are checked."""
        ...

    def open(self) -> Opening:
        """The first words for a connection that has come. Raises TunnelRefused if there is no room."""
        ...

    def check(self, plain: dict[str, Any]) -> None:
        """Is it worth looking at the signature? Raises TunnelRefused."""
        ...

    def turn(self, greeting: TunnelGreeting, transport: asyncio.Transport) -> None:
        """The greeting holds: the connection is ours to ask over. Raises TunnelRefused before it has
        written anything.
        """
        ...

    def left(self) -> None:
        """A connection that was opened is turned, refused or gone."""
        ...


class Line:
    """Collects one line. Raises TunnelRefused beyond its bound."""

    __slots__ = ("_held", "rest")

    def __init__(self) -> None:
        self._held = b""
        self.rest = b""

    def feed(self, data: bytes) -> bytes | None:
        """The line without its end, once it is whole; what came behind it is in `rest`."""
        self._held += data
        end = self._held.find(b"\n")
        if end < 0 and len(self._held) <= LINE_BYTES_MAX:
            return None
        if not 0 <= end <= LINE_BYTES_MAX:
            raise TunnelRefused("line_too_long", f"A line has at most {LINE_BYTES_MAX} bytes.")
        line, self.rest, self._held = self._held[:end], self._held[end + 1 :], b""
        return line


class Doorman(asyncio.Protocol):
    """The gateway's end until the roles turn."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._line = Line()
        self._opening: Opening | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it
        stay_alert(transport)
        try:
            self._opening = opening = self._door.open()
        except TunnelRefused as refused:
            self._refuse(refused)
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(GREETING_DEADLINE_MS / 1000, self._transport.abort)
        hello = {"hello": to_plain(opening.signed), "challenge": opening.challenge}
        self._transport.write(_encode(hello) + b"\n")

    def data_received(self, data: bytes) -> None:
        """The greeting, or a part of it."""
        opening = self._opening
        if opening is None:
            return  # refused already; whatever it still writes
        try:
            line = self._line.feed(data)
            if line is None:
                return
            greeting = self._read(line, opening)
            self._door.turn(greeting, self._transport)
        except TunnelRefused as refused:
            self._refuse(refused)
            return
        self._close_door()

    def connection_lost(self, exc: Exception | None) -> None:
        """It left before the roles turned."""
        del exc
        self._close_door()

    def _read(self, line: bytes, opening: Opening) -> TunnelGreeting:
        """The greeting that holds. Raises TunnelRefused."""
        if self._line.rest:
            raise TunnelRefused("bad_greeting", "Something stands behind the greeting.")
        try:
            signed = parse_signed(_decode(line).get("greeting"))
            self._door.check(signed.body)
            return check_greeting(
                signed, hello=opening.hello, challenge=opening.challenge, verify=self._door.verify
            )
        except _UNREADABLE as error:
            raise TunnelRefused("bad_greeting", f"The greeting does not hold: {error}.") from error

    def _refuse(self, refused: TunnelRefused) -> None:
        said = {"error": {"code": refused.code, "message": refused.message}}
        self._transport.write(_encode(said) + b"\n")
        self._transport.close()
        self._close_door()

    def _close_door(self) -> None:
        """Once, whatever came of it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening = None
            self._door.left()


def write_ok(transport: asyncio.Transport) -> None:
    """The last words: from here on the connection speaks HTTP."""
    transport.write(_OK)


@dataclass(frozen=True, slots=True)
class Party:
    """Who dials, and whom it believes. `is_gateway` says whether the charter has this identity."""

    key: Sign
    verify: Verify
    clock: Clock
    is_gateway: Callable[[str], bool]
    node: str
    skew_max_ms: int
    channel_of: ChannelOf


Turn = Callable[[str, asyncio.Transport, bytes], None]
"""(the gateway's identity, the connection, bytes that came already): it is ours to answer on."""


class Caller(asyncio.Protocol):
    """The miner's end until the roles turn. `done` is set when they have, or says why they will not."""

    def __init__(self, party: Party, turn: Turn, done: "asyncio.Future[None]") -> None:
        self._party = party
        self._turn = turn
        self._done = done
        self._line = Line()
        self._gateway = ""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the hello."""
        self._transport = cast("asyncio.Transport", transport)
        stay_alert(transport)

    def data_received(self, data: bytes) -> None:
        """A line, or a part of one."""
        try:
            line = self._line.feed(data)
            if line is None:
                return
            if not self._gateway:
                self._answer(line)
            else:
                self._conclude(line)
        except TunnelRefused as refused:
            self._fail(refused)

    def connection_lost(self, exc: Exception | None) -> None:
        """The gateway has left."""
        del exc
        if not self._done.done():
            self._done.set_exception(TunnelRefused("cut", "The gateway cut the connection."))

    def _answer(self, line: bytes) -> None:
        """Greet the gateway that has said hello. Raises TunnelRefused."""
        party, channel = self._party, self._party.channel_of(self._transport)
        plain = _object(line)
        if "error" in plain:
            raise _refusal(plain)
        try:
            signed = parse_signed(plain.get("hello"))
            if not party.is_gateway(signed.signer):
                raise TunnelRefused("gateway_unknown", "No gateway of this market answers there.")
            hello = check_hello(
                signed,
                channel=channel,
                now_ms=party.clock.now_ms(),
                skew_max_ms=party.skew_max_ms,
                verify=party.verify,
            )
        except SpecError as error:
            raise TunnelRefused("bad_hello", f"The hello does not hold: {error}.") from error
        if self._line.rest:
            raise TunnelRefused("bad_hello", "Something stands behind the hello.")
        self._gateway = hello.gateway
        greeting = TunnelGreeting(
            miner=party.key.identity,
            node=party.node,
            gateway=hello.gateway,
            channel=channel,
            challenge=str(plain.get("challenge"))[:LINE_BYTES_MAX],
        )
        said = {"greeting": to_plain(sign(GREETING_KIND, greeting, party.key))}
        self._transport.write(_encode(said) + b"\n")

    def _conclude(self, line: bytes) -> None:
        """Was the greeting taken? Raises TunnelRefused."""
        plain = _object(line)
        if plain.get("ok") is not True:
            raise _refusal(plain)
        self._turn(self._gateway, self._transport, self._line.rest)
        if not self._done.done():
            self._done.set_result(None)

    def _fail(self, refused: TunnelRefused) -> None:
        self._transport.abort()
        if not self._done.done():
            self._done.set_exception(refused)


def _refusal(plain: dict[str, Any]) -> TunnelRefused:
    """What a gateway says instead of a hello or of `ok`."""
    error = plain.get("error")
    said = error if isinstance(error, dict) else {}
    code, message = str(said.get("code", ""))[:80], str(said.get("message", ""))[:500]
    return TunnelRefused(code or "refused", message or "The gateway refused.")


def _object(line: bytes) -> dict[str, Any]:
    """Raises TunnelRefused."""
    try:
        return _decode(line)
    except _UNREADABLE as error:
        raise TunnelRefused("bad_line", f"No JSON object came: {error}.") from error

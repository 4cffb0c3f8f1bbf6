"""Calling stations from a command: one bounded call, errors told in words."""

import asyncio
from typing import Any

import msgspec

from penstock.cli.errors import Stop
from penstock.cli.home import Home
from penstock.kit.errors import WireError
from penstock.kit.ports import Network
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets

DEADLINE_MS = 10_000
BODY_BYTES_MAX = 64 << 20


class Refused(Exception):
    """A station answered with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message


async def call(
    method: str,
    url: str,
    *,
    body: object = None,
    bearer: str = "",
    network: Network | None = None,
) -> Any:
    """The JSON answer. Raises Refused, WireError."""
    client = HttpClient(Sockets() if network is None else network)
    headers = [("content-type", "application/json")]
    if bearer:
        headers.append(("authorization", f"Bearer {bearer}"))
    data = b"" if body is None else msgspec.json.encode(body)
    try:
        reply = await client.call(
            method,
            url,
            headers=headers,
            body=data,
            deadline_ms=DEADLINE_MS,
            body_bytes_max=BODY_BYTES_MAX,
        )
    finally:
        await client.close()
    try:
        answer = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if reply.status < 400:
            raise Refused(reply.status, "bad_answer", "the answer is not JSON") from error
        answer = {}
    if reply.status >= 400:
        told = answer.get("error") if isinstance(answer, dict) else None
        told = told if isinstance(told, dict) else {}
        raise Refused(reply.status, str(told.get("code", "")), str(told.get("message", "")))
    return answer


def fetch(method: str, url: str, *, body: object = None, bearer: str = "") -> Any:
    """`call` for commands: every failure becomes a Stop."""
    try:
        return asyncio.run(call(method, url, body=body, bearer=bearer))
    except Refused as error:
        raise Stop(f"{url} refused ({error.status} {error.code})", why=error.message) from error
    except WireError as error:
        raise Stop(
            f"{url} does not answer",
            why=str(error),
            then="penstock status, then penstock logs",
        ) from error


def station_url(home: Home, name: str) -> str:
    """Where a station of the market in this home listens. Raises Stop when none runs."""
    state = home.read_state()
    if home.supervisor_pid() is None or name not in state.get("urls", {}):
        raise Stop(f"no market runs in {home.path}", then=f"penstock up{home.flag}")
    return str(state["urls"][name])


def api_key(home: Home) -> str:
    """The key that `up` made. Raises Stop."""
    try:
        return home.api_key_file.read_text().strip()
    except OSError as error:
        raise Stop(f"no API key in {home.path}", then=f"penstock up{home.flag}") from error

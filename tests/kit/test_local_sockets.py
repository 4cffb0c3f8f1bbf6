"""The Network port on a Unix socket: who may connect, long paths, and what a killed process leaves."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from penstock.kit.errors import ConnectFailed, PeerClosed, PortTaken, WireError
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response
from penstock.kit.wire.local_sockets import (
    ADDRESS_BYTES_MAX,
    LocalSockets,
    MayConnect,
    is_own_user,
    peer_uid,
)
from penstock.kit.wire.server import Server


async def hello(request: Request) -> Response:
    return Response(200, b"hello " + request.path.encode() + request.body)


@asynccontextmanager
async def serving(path: Path, may_connect: MayConnect | None = None) -> AsyncIterator[Server]:
    server = Server(LocalSockets(path, may_connect=may_connect), hello, entropy=os.urandom)
    await server.start("agent", 0)
    try:
        yield server
    finally:
        await server.close(0)


async def ask(path: Path, body: bytes = b"") -> bytes:
    client = HttpClient(LocalSockets(path))
    try:
        method = "POST" if body else "GET"
        return (await client.call(method, "http://agent/x", body=body, deadline_ms=5_000)).body
    finally:
        await client.close()


async def test_a_server_answers_over_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    async with serving(path) as server:
        assert server.port == 0
        assert await ask(path) == b"hello /x"
        assert await ask(path, b"!" * 100_000) == b"hello /x" + b"!" * 100_000
        answers = await asyncio.gather(*(ask(path) for _ in range(20)))
        assert set(answers) == {b"hello /x"}


async def test_only_its_owner_can_open_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    async with serving(path):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_another_user_is_cut_off_before_a_byte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    asked: list[int] = []

    def refuse(uid: int) -> bool:
        asked.append(uid)
        return False

    async with serving(path, refuse) as server:
        with pytest.raises(WireError) as caught:
            await ask(path)
        assert isinstance(caught.value, PeerClosed | ConnectFailed)
        assert server.connections == 0
    assert set(asked) == {os.geteuid()}


def test_the_owner_and_root_may_connect_and_nobody_else() -> None:
    assert is_own_user(os.geteuid())
    assert is_own_user(0)
    assert not is_own_user(os.geteuid() + 12_345)


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert peer_uid(here) == os.geteuid()


async def test_a_path_longer_than_an_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 20) / ("deep-" * 20)
    folder.mkdir(parents=True)
    path = folder / "agent.sock"
    assert len(os.fsencode(path)) > ADDRESS_BYTES_MAX
    async with serving(path):
        assert await ask(path) == b"hello /x"
        with pytest.raises(PortTaken):
            async with serving(path):
                pass
    assert not path.exists()


async def test_a_second_server_at_the_same_path_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    async with serving(path):
        with pytest.raises(PortTaken):
            async with serving(path):
                pass
        assert await ask(path) == b"hello /x", "the first one is not disturbed"


async def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    assert path.exists()
    async with serving(path):
        assert await ask(path) == b"hello /x"


async def test_where_nobody_listens_it_is_an_error_of_the_wire(tmp_path: Path) -> None:
    with pytest.raises(ConnectFailed):
        await ask(tmp_path / "none.sock")


async def test_closing_twice_is_harmless_and_removes_the_path(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    listener = await LocalSockets(path).listen("agent", 0, asyncio.Protocol)
    await listener.close()
    await listener.close()
    assert not path.exists()

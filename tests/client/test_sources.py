"""Where published files come from: a folder and a ledger over HTTP tell the same."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.client.published_log import LAST, auditor, make_log

from penstock.client.errors import NotPublished, Unreachable
from penstock.client.published import Source
from penstock.client.sources import FolderSource, HttpSource
from penstock.kit.ports import Network
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.sim.loop import VirtualLoop, run
from penstock.sim.net import MemoryNetwork

PORT = 80


def in_memory(scenario: Callable[[Network], Awaitable[None]]) -> None:
    loop = VirtualLoop(horizon_ms=3_600_000)

    async def main() -> None:
        await scenario(MemoryNetwork(random.Random(1), loop).at("ledger"))

    run(main(), loop)


def routes(files: dict[str, bytes], *, status: int = 0) -> Routes:
    async def get(request: Request) -> Response:
        name = request.params["name"]
        if status or name not in files:
            return Response(status or 404)
        return Response(200, files[name])

    table = Routes()
    table.add("GET", "/files/{name...}", get)
    return table


async def with_ledger(
    network: Network, table: Routes, use: Callable[[Source], Awaitable[None]]
) -> None:
    server = Server(network, table, entropy=os.urandom)
    await server.start("0.0.0.0", PORT)
    client = HttpClient(network)
    await use(HttpSource(client, f"http://ledger:{PORT}/"))
    await client.close()
    await server.close(drain_ms=100)


def test_a_folder_and_a_ledger_are_audited_alike(tmp_path: Path) -> None:
    files = asyncio.run(make_log()).published
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    from_folder = asyncio.run(auditor(FolderSource(tmp_path)).audit(LAST))

    async def compare(source: Source) -> None:
        assert await auditor(source).audit(LAST) == from_folder

    in_memory(lambda network: with_ledger(network, routes(files), compare))


async def test_a_file_that_is_not_in_the_folder_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"x")
    for name in ("operator.json", "checkpoint/deeper"):
        with pytest.raises(NotPublished) as caught:
            await FolderSource(tmp_path).get(name)
        assert caught.value.name == name


async def test_a_file_that_cannot_be_read_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "operator.json").mkdir()
    with pytest.raises(Unreachable) as caught:
        await FolderSource(tmp_path).get("operator.json")
    assert "operator.json" in caught.value.url


def test_a_ledger_without_the_file_has_not_published_it() -> None:
    async def ask(source: Source) -> None:
        with pytest.raises(NotPublished):
            await source.get("operator.json")

    in_memory(lambda network: with_ledger(network, routes({}), ask))


def test_a_ledger_that_fails_is_unreachable() -> None:
    async def ask(source: Source) -> None:
        with pytest.raises(Unreachable) as caught:
            await source.get("operator.json")
        assert "503" in caught.value.reason

    in_memory(lambda network: with_ledger(network, routes({}, status=503), ask))


def test_a_ledger_that_is_not_there_is_unreachable() -> None:
    async def ask(network: Network) -> None:
        client = HttpClient(network)
        with pytest.raises(Unreachable):
            await HttpSource(client, "http://nobody:1").get("operator.json")
        await client.close()

    in_memory(ask)

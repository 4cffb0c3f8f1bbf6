"""Uploads that are none, too large, too many, broken off or named by an enemy."""

import asyncio
from typing import Any

import pytest
from tests.stations.gateway.back_room import (
    FILES,
    delete,
    form,
    play_shop,
    seen,
    send,
    small_store,
    upload,
)
from tests.stations.gateway.test_files import Answer
from tests.stations.gateway.world import SECRET, World, error_of

from penstock.gateway.config import StoreBounds
from penstock.gateway.files import safe_filename
from penstock.kit.multipart import file_part, form_of, text_part


def one_at_once() -> StoreBounds:
    return small_store(file_bytes_max=4 << 20, account_bytes_max=8 << 20, account_uploads_max=1)


DATA = b'{"a": 1}\n' * 50


def part(name: str, filename: str | None = None) -> Any:
    if filename is None:
        return text_part(name, "batch")
    return file_part(name, filename, DATA, content_type="a/b")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b'{"purpose": "batch"}', None),
        (form(DATA)[:-5], None),
        (form(DATA)[:40], None),
        (form(DATA, purpose="tickle"), "purpose"),
        (form_of([part("file", "a")]).body(), "purpose"),
        (form_of([part("purpose")]).body(), "file"),
        (form_of([part("purpose"), text_part("file", "text")]).body(), "file"),
        (form_of([part("purpose"), part("file", "a"), part("file", "b")]).body(), "file"),
    ],
)
def test_what_is_no_upload_is_told_so_and_not_kept(body: bytes, param: str | None) -> None:
    async def scenario(world: World) -> None:
        refused = await send(world, body)
        assert (refused.status, error_of(refused)["param"]) == (400, param)
        assert world.store.names == []
        assert seen(await world.get(FILES))["data"] == []

    play_shop(scenario)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\in.jsonl", "in.jsonl"),
        ("..", "file"),
        ("", "file"),
        ("a\r\nset-cookie: x", "aset-cookie: x"),
        ("\x1b[31mred\x00", "[31mred"),
        ("é" * 400, "é" * 255),
        ("a/b/", "file"),
    ],
)
def test_a_file_name_is_only_shown(given: str, shown: str) -> None:
    assert safe_filename(given) == shown


def test_a_hostile_file_name_reaches_no_key_and_no_header() -> None:
    async def scenario(world: World) -> None:
        body = form(DATA).replace(b'filename="in.jsonl"', b'filename="../../x\x01\xff*.>"')
        card = seen(await send(world, body))
        assert "/" not in card["filename"]
        content = await world.get(f"{FILES}/{card['id']}/content")
        assert content.body == DATA
        assert "\x01" not in content.header("content-disposition")

    play_shop(scenario)


@pytest.mark.parametrize(
    "file_id", ["file-*", "..", "%2e%2e%2fx", "file-" + "0" * 32, "file-.>", "%00", "x" * 2_000]
)
def test_an_id_that_we_never_gave_is_not_found(file_id: str) -> None:
    async def scenario(world: World) -> None:
        for path in (f"{FILES}/{file_id}", f"{FILES}/{file_id}/content"):
            assert error_of(await world.get(path))["code"] == "file_not_found"
        assert (await delete(world, f"{FILES}/{file_id}")).status == 404

    play_shop(scenario)


def test_what_is_too_large_is_refused_and_not_kept() -> None:
    async def scenario(world: World) -> None:
        assert (await upload(world, bytes(4_000))).status == 200
        refused = await upload(world, bytes(4_001))
        assert (refused.status, error_of(refused)["code"]) == (413, "file_too_large")
        full = await upload(world, bytes(2_001))
        assert (full.status, error_of(full)["code"]) == (403, "storage_limit")
        assert len(world.store.names) == 1
        for _ in range(3):
            assert (await upload(world, b"x")).status == 200
        assert error_of(await upload(world, b"x"))["code"] == "storage_limit"

    play_shop(scenario, store_bounds=small_store())


def test_an_announced_length_is_refused_before_its_bytes_come() -> None:
    async def scenario(world: World) -> None:
        transport, protocol = await world.network.at("client").connect("gateway", 8_080, Answer)
        assert isinstance(protocol, Answer)
        head = f"POST {FILES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
        transport.write(f"{head}content-length: {100 << 20}\r\n\r\n".encode())
        await asyncio.sleep(1)
        assert protocol.data.startswith(b"HTTP/1.1 413 ")
        assert b"file_too_large" in protocol.data
        assert world.store.names == []

    play_shop(scenario, store_bounds=small_store())


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind() -> None:
    async def scenario(world: World) -> None:
        transport, _ = await world.network.at("client").connect("gateway", 8_080, asyncio.Protocol)
        body = form(bytes(1 << 20))
        head = f"POST {FILES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
        transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:700_000])
        await asyncio.sleep(1)
        transport.abort()
        await asyncio.sleep(1)
        assert world.store.names == []
        assert seen(await world.get(FILES))["data"] == []
        assert (await upload(world, DATA)).status == 200, "its place is free again"

    play_shop(scenario, store_bounds=one_at_once())


def test_too_many_uploads_at_once_are_refused() -> None:
    async def scenario(world: World) -> None:
        body = bytes(1 << 20)
        replies = await asyncio.gather(*(upload(world, body) for _ in range(3)))
        statuses = sorted(reply.status for reply in replies)
        assert statuses[0] == 200
        assert statuses[-1] == 429

    play_shop(scenario, store_bounds=one_at_once())

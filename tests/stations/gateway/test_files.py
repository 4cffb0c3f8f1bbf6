"""`/v1/files`: kept whole or not at all, within bounds, and seen by nobody else."""

import asyncio
import json

from tests.stations.gateway.back_room import (
    DAY_S,
    FILES,
    OTHER_SECRET,
    delete,
    form,
    play_shop,
    seen,
    send,
    upload,
)
from tests.stations.gateway.world import SECRET, URL, World, bearer, error_of, play

from penstock.gateway.files import is_id
from penstock.kit.multipart import file_part, form_of, text_part
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server


class Answer(asyncio.Protocol):
    """What came back on a connection."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


DATA = b'{"a": 1}\n' * 50


def test_a_file_is_openais_object_and_comes_back_byte_for_byte() -> None:
    async def scenario(world: World) -> None:
        card = seen(await upload(world, DATA, filename="my questions.jsonl"))
        assert card == {
            "id": card["id"],
            "object": "file",
            "bytes": len(DATA),
            "created_at": world.clock.now_ms() // 1000,
            "expires_at": card["created_at"] + 30 * DAY_S,
            "filename": "my questions.jsonl",
            "purpose": "batch",
            "status": "processed",
            "status_details": None,
        }
        assert is_id(card["id"])
        assert seen(await world.get(f"{FILES}/{card['id']}")) == card
        content = await world.get(f"{FILES}/{card['id']}/content")
        assert content.body == DATA
        assert content.header("content-disposition").endswith("my%20questions.jsonl")
        assert content.header("x-content-type-options") == "nosniff"
        gone = seen(await delete(world, f"{FILES}/{card['id']}"))
        assert gone == {"id": card["id"], "object": "file", "deleted": True}
        for path in (f"{FILES}/{card['id']}", f"{FILES}/{card['id']}/content"):
            assert error_of(await world.get(path))["code"] == "file_not_found"
        assert (await delete(world, f"{FILES}/{card['id']}")).status == 404
        assert world.store.names == []

    play_shop(scenario)


def test_a_large_upload_is_read_while_it_arrives() -> None:
    data = bytes(range(256)) * 4_096 * 6

    async def scenario(world: World) -> None:
        held_bytes = 0

        async def watch() -> None:
            nonlocal held_bytes
            while True:
                held_bytes = max(held_bytes, world.server.held_bytes)
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        transport, protocol = await world.network.at("client").connect("gateway", 8_080, Answer)
        assert isinstance(protocol, Answer)
        body = form(data)
        head = f"POST {FILES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
        transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode())
        for at in range(0, len(body), 65_536):
            transport.write(body[at : at + 65_536])
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        watching.cancel()
        assert protocol.data.startswith(b"HTTP/1.1 200 ")
        card = json.loads(protocol.data.partition(b"\r\n\r\n")[2])
        assert card["bytes"] == len(data)
        assert held_bytes < 1 << 20, "it was never held whole"
        content = await world.get(f"{FILES}/{card['id']}/content")
        assert content.body == data

    play_shop(scenario)


def test_nobody_sees_the_files_of_another_account() -> None:
    async def scenario(world: World) -> None:
        world.ledger.open_account("bob", OTHER_SECRET, credit_nano=10**9)
        world.ledger.open_account("alice", "sk-penstock-alice-2", credit_nano=0)
        card = seen(await upload(world, DATA))
        path = f"{FILES}/{card['id']}"
        for reply in (
            await world.get(path, secret=OTHER_SECRET),
            await world.get(f"{path}/content", secret=OTHER_SECRET),
            await delete(world, path, secret=OTHER_SECRET),
        ):
            assert error_of(reply)["code"] == "file_not_found"
        assert seen(await world.get(FILES, secret=OTHER_SECRET))["data"] == []
        assert seen(await world.get(path, secret="sk-penstock-alice-2")) == card
        for secret in ("", "sk-penstock-nobody", "nonsense"):
            for reply in (
                await world.get(FILES, secret=secret),
                await world.get(path, secret=secret),
                await upload(world, DATA, secret=secret),
            ):
                assert reply.status == 401

    play_shop(scenario)


def test_files_are_listed_in_pages_and_by_purpose() -> None:
    async def scenario(world: World) -> None:
        ids = []
        for number in range(5):
            purpose = "user_data" if number == 2 else "batch"
            ids.append(seen(await upload(world, b"%d" % number, purpose=purpose))["id"])
            await asyncio.sleep(2)
        everything = seen(await world.get(FILES))
        assert [one["id"] for one in everything["data"]] == ids[::-1]
        assert (everything["object"], everything["has_more"]) == ("list", False)
        assert (everything["first_id"], everything["last_id"]) == (ids[4], ids[0])
        page = seen(await world.get(f"{FILES}?limit=2&order=asc"))
        assert [one["id"] for one in page["data"]] == ids[:2]
        assert page["has_more"]
        rest = seen(await world.get(f"{FILES}?order=asc&after={page['last_id']}"))
        assert [one["id"] for one in rest["data"]] == ids[2:]
        chosen = seen(await world.get(f"{FILES}?purpose=user_data"))
        assert [one["id"] for one in chosen["data"]] == [ids[2]]
        for query, param in (
            ("limit=0", "limit"),
            ("limit=x", "limit"),
            ("limit=10001", "limit"),
            ("order=up", "order"),
            ("after=file-0", "after"),
        ):
            refused = await world.get(f"{FILES}?{query}")
            assert (refused.status, error_of(refused)["param"]) == (400, param)

    play_shop(scenario)


def test_a_file_expires_when_it_was_asked_to() -> None:
    async def scenario(world: World) -> None:
        expires = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        card = seen(await upload(world, DATA, **expires))
        assert card["expires_at"] == card["created_at"] + 3_600
        await asyncio.sleep(3_599)
        assert seen(await world.get(f"{FILES}/{card['id']}")) == card
        await asyncio.sleep(2)
        assert (await world.get(f"{FILES}/{card['id']}")).status == 404
        assert (await world.get(f"{FILES}/{card['id']}/content")).status == 404
        assert seen(await world.get(FILES))["data"] == []
        assert world.store.names == []
        for anchor, seconds in (("created_at", "3599"), ("created_at", "x"), ("", "3600")):
            bad = {"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}
            assert error_of(await upload(world, DATA, **bad))["param"] == "expires_after"

    play_shop(scenario)


def test_the_fields_of_a_form_may_stand_behind_its_file() -> None:
    async def scenario(world: World) -> None:
        file = file_part("file", "in.jsonl", DATA, content_type="a/b")
        late = [file, text_part("purpose", "user_data")]
        card = seen(await send(world, form_of(late).body()))
        assert card["purpose"] == "user_data"
        assert seen(await world.get(f"{FILES}/{card['id']}")) == card
        expiry = [
            text_part("expires_after[anchor]", "created_at"),
            text_part("expires_after[seconds]", "3600"),
        ]
        refused = await send(world, form_of([*late, *expiry]).body())
        assert error_of(refused)["param"] == "expires_after"
        assert len(world.store.names) == 1, "what was refused is not kept"

    play_shop(scenario)


def test_a_store_that_is_away_or_full_is_said_so() -> None:
    async def scenario(world: World) -> None:
        card = seen(await upload(world, DATA))
        world.store.down = True
        for reply in (
            await upload(world, DATA),
            await world.get(FILES),
            await world.get(f"{FILES}/{card['id']}"),
            await delete(world, f"{FILES}/{card['id']}"),
        ):
            assert (reply.status, error_of(reply)["code"]) == (503, "bus_down")
        world.store.down = False
        world.store.bytes_max = len(DATA) + 10
        full = await upload(world, DATA)
        assert (full.status, error_of(full)["code"]) == (503, "storage_full")
        assert full.header("retry-after")
        assert (await world.get(f"{FILES}/{card['id']}/content")).body == DATA

    play_shop(scenario)


def test_who_has_no_money_left_still_gets_at_his_files() -> None:
    async def scenario(world: World) -> None:
        card = seen(await upload(world, DATA))
        await asyncio.sleep(120)  # the lease is given back and forgotten

        async def balance(request: Request) -> Response:
            if request.bearer() != SECRET:
                return Response(401, b"{}")
            return json_response(200, {"account": "alice", "available_nano": 0, "held_nano": 0})

        routes = Routes()
        routes.add("GET", "/v1/balance", balance)
        ledger = Server(world.network.at("ledger"), routes, entropy=bytes)
        await ledger.start("ledger", 1)
        world.ledger.open_account("poor", "sk-penstock-poor", credit_nano=0)
        world.gateway.admission._keys.clear()
        world.ledger.accounts["alice"].free_nano = 0
        content = await world.get(f"{FILES}/{card['id']}/content")
        assert content.body == DATA
        assert (await world.get(FILES, secret="sk-penstock-poor")).status == 401
        await ledger.close(0)
        assert (await world.get(FILES)).status == 503

    play_shop(scenario)


def test_a_gateway_without_a_store_says_that_it_keeps_nothing() -> None:
    async def scenario(world: World) -> None:
        for reply in (await world.get(FILES), await upload(world, DATA)):
            assert error_of(reply)["code"] == "unsupported_endpoint"

    play(scenario)


def test_bytes_are_counted() -> None:
    async def scenario(world: World) -> None:
        card = seen(await upload(world, DATA))
        await world.get(f"{FILES}/{card['id']}/content")
        text = (await world.get("/metrics", secret="")).body.decode()
        for way in ("in", "out"):
            assert f'gateway_file_bytes_total{{way="{way}"}} {len(DATA)}' in text

    play_shop(scenario)


def test_head_and_wrong_methods_are_answered() -> None:
    async def scenario(world: World) -> None:
        for method in ("PUT", "PATCH"):
            reply = await world.client.call(
                method, URL + FILES, headers=bearer(SECRET), body=b"{}", deadline_ms=10_000
            )
            assert reply.status == 405
            assert json.loads(reply.body)["error"]["code"] == "method_not_allowed"

    play_shop(scenario)

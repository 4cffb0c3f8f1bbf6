"""Reverse connections, both ends: greeted, turned, kept, found dead, on TLS and in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.kit.tunnels import HOST_OF_NODE, KEY, URL, Both, play, until
from tests.kit.world import MemoryWorld, World

from penstock.kit.errors import ConnectFailed, DeadlinePassed, PeerClosed
from penstock.kit.wire.http import Request, Response, Stream
from penstock.kit.wire.tunnel_keeper import KeeperLimits
from penstock.kit.wire.tunnel_pool import TunnelLimits
from penstock.spec.tunnels import PING_MS, SILENCE_MS

DEADLINE_MS = 30_000


def test_a_miner_that_dialled_is_asked_like_any_server(world: World) -> None:
    async def story(both: Both) -> None:
        keeper = both.miner()
        both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links == 4)
        assert both.client.links == 4
        assert both.changes == [(HOST_OF_NODE, True)]
        for size in (0, 5, 300_000):
            reply = await both.client.call(
                "POST", f"{URL}/some/path", body=b"x" * size, deadline_ms=DEADLINE_MS
            )
            assert (reply.status, len(reply.body)) == (200, size)
            assert reply.header("x-path") == "/some/path"
        assert keeper.links == 4, "one at a time needs no more"
        assert keeper.why == ""
        assert keeper.gateway == both.door.key.identity

    play(world, story)


def test_a_stream_passes_and_its_end_frees_the_connection(world: World) -> None:
    async def handler(_: Request) -> Response | Stream:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(50):
                yield b"<%d>" % number
                await asyncio.sleep(0)

        return Stream(200, (), chunks())

    async def story(both: Both) -> None:
        keeper = both.miner(handler)
        both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links)
        for _ in range(3):
            async with both.client.open_stream(
                "POST", URL, body=b"", head_deadline_ms=DEADLINE_MS
            ) as reply:
                body = await reply.read(bytes_max=10_000, idle_deadline_ms=DEADLINE_MS)
            assert body == b"".join(b"<%d>" % number for number in range(50))
        await until(lambda: keeper.busy == 0)

    play(world, story)


def test_a_burst_is_answered_by_more_connections_up_to_the_bound(world: World) -> None:
    go = asyncio.Event()
    most = 0

    async def handler(_: Request) -> Response | Stream:
        await go.wait()
        return Response(200, b"ok")

    async def story(both: Both) -> None:
        nonlocal most
        keeper = both.miner(handler, limits=KeeperLimits(spare_min=1, links_max=12))
        both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links)
        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(both.client.call("POST", URL, deadline_ms=DEADLINE_MS))
                for _ in range(20)
            ]
            await until(lambda: keeper.busy == 12)
            most = keeper.links
            go.set()
        assert [call.result().body for call in calls] == [b"ok"] * 20
        assert most == 12

    play(world, story)


def test_leaving_in_mid_stream_cancels_the_miners_handler(world: World) -> None:
    cancelled = asyncio.Event()

    async def handler(_: Request) -> Response | Stream:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.sleep(3_600)
            finally:
                cancelled.set()

        return Stream(200, (), chunks())

    async def story(both: Both) -> None:
        keeper = both.miner(handler)
        both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links == 4)
        async with both.client.open_stream(
            "POST", URL, body=b"", head_deadline_ms=DEADLINE_MS
        ) as reply:
            assert await anext(reply.chunks(idle_deadline_ms=DEADLINE_MS)) == b"first"
        await cancelled.wait()
        await until(lambda: keeper.links == 4)

    play(world, story)


def test_a_gateway_that_starts_anew_is_dialled_again(world: World) -> None:
    async def story(both: Both) -> None:
        keeper = both.miner(limits=KeeperLimits(retry_ms_min=10, retry_ms_max=50))
        both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links == 4)
        await both.listener.close()
        while (link := both.client.idle_link(KEY)) is not None:
            link.abort()
        await until(lambda: keeper.links == 0)
        assert not both.client.is_here(HOST_OF_NODE)
        assert both.changes[-1] == (HOST_OF_NODE, False)
        await until(lambda: "cannot be dialled" in keeper.why)
        await both.reopen()
        await until(lambda: both.client.is_here(HOST_OF_NODE) and keeper.links == 4)
        assert (await both.client.call("POST", URL, deadline_ms=DEADLINE_MS)).status == 200

    play(world, story)


def test_who_waits_for_a_node_is_told_when_its_last_connection_goes(world: World) -> None:
    async def handler(_: Request) -> Response | Stream:
        await asyncio.sleep(3_600)
        raise AssertionError("nobody waits that long")

    async def story(both: Both) -> None:
        keeper = both.miner(handler, limits=KeeperLimits(spare_min=1, links_max=1))
        task = both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_outcome(both)) for _ in range(2)]
            await until(lambda: keeper.busy == 1)
            await asyncio.sleep(0.05)
            task.cancel()
            for one in list(keeper._busy):
                one.cut()
        assert {one.result() for one in asked} == {PeerClosed, ConnectFailed}

    play(world, story)


async def _outcome(both: Both) -> type[Exception]:
    try:
        await both.client.call("POST", URL, deadline_ms=DEADLINE_MS)
    except (PeerClosed, ConnectFailed, DeadlinePassed) as error:
        return type(error)
    raise AssertionError("it was answered")


def test_a_node_without_a_connection_cannot_be_asked(world: World) -> None:
    async def story(both: Both) -> None:
        assert await _outcome(both) is ConnectFailed
        assert both.client.idle_link(KEY) is None
        assert both.client.nodes == {}

    play(world, story)


def test_a_full_node_is_waited_for_not_for_ever(virtual: MemoryWorld) -> None:
    async def handler(_: Request) -> Response | Stream:
        await asyncio.sleep(20)
        return Response(200)

    async def story(both: Both) -> None:
        keeper = both.miner(handler, limits=KeeperLimits(spare_min=1, links_max=1))
        both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(both.client.call("POST", URL, deadline_ms=DEADLINE_MS))
            await until(lambda: keeper.busy)
            outcomes = [group.create_task(_outcome(both)) for _ in range(3)]
        assert first.result().status == 200
        # Two may wait, and wait in vain; the third is sent away at once.
        assert sorted(one.result().__name__ for one in outcomes) == [
            "ConnectFailed",
            "DeadlinePassed",
            "DeadlinePassed",
        ]

    play(virtual, story, tunnels=TunnelLimits(waiting_max=2, wait_ms=2_000))


def test_a_link_given_to_one_who_has_just_left_is_not_lost(virtual: MemoryWorld) -> None:
    async def story(both: Both) -> None:
        keeper = both.miner(limits=KeeperLimits(spare_min=1, links_max=1))
        both.scope.start("keeper", keeper.run())
        await until(lambda: both.client.links == 1)
        link = both.client.idle_link(KEY)
        assert link is not None
        waiting = both.scope.start("wait", both.client.dial(KEY, deadline_ms=DEADLINE_MS))
        await until(lambda: both.client.nodes[HOST_OF_NODE].waiting)
        both.client.home.put(link)  # the future is set, and its task has not run yet
        waiting.cancel()
        await asyncio.wait([waiting])
        assert both.client.idle_link(KEY) is link
        both.client.home.put(link)
        assert (await both.client.call("POST", URL, deadline_ms=DEADLINE_MS)).status == 200

    play(virtual, story)


def test_what_rests_is_pinged_and_kept(virtual: MemoryWorld) -> None:
    async def story(both: Both) -> None:
        keeper = both.miner()
        both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links == 4)
        await asyncio.sleep(10 * SILENCE_MS / 1000)
        assert (keeper.links, both.client.links) == (4, 4)
        assert both.changes == [(HOST_OF_NODE, True)], "all the while"
        assert (await both.client.call("POST", URL, deadline_ms=DEADLINE_MS)).status == 200

    play(virtual, story)


def test_pings_cost_no_connections(virtual: MemoryWorld) -> None:
    async def story(both: Both) -> None:
        keeper = both.miner(limits=KeeperLimits(spare_min=2))
        both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links == 2)
        await asyncio.sleep(5 * PING_MS / 1000)
        assert len(both.door.seen) == 2, "a ping does not make a connection busy"

    play(virtual, story)


def test_a_surplus_is_let_go(virtual: MemoryWorld) -> None:
    async def handler(_: Request) -> Response | Stream:
        await asyncio.sleep(1)
        return Response(200)

    async def story(both: Both) -> None:
        keeper = both.miner(handler, limits=KeeperLimits(spare_min=2, trim_ms=5_000))
        both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links == 2)
        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(both.client.call("POST", URL, deadline_ms=DEADLINE_MS))
        assert keeper.links >= 16
        await asyncio.sleep(30)
        assert keeper.links == 4
        assert both.client.links == 4
        assert (await both.client.call("POST", URL, deadline_ms=DEADLINE_MS)).status == 200

    play(virtual, story)


@pytest.mark.parametrize("is_drained", [True, False])
def test_a_miner_that_stops_answers_what_runs(world: World, is_drained: bool) -> None:
    started = asyncio.Event()

    async def handler(_: Request) -> Response | Stream:
        started.set()
        await asyncio.sleep(0.1)
        return Response(200, b"last")

    async def story(both: Both) -> None:
        server = both.server(handler)
        keeper = both.miner(server=server)
        task = both.scope.start("keeper", keeper.run())
        await until(lambda: keeper.links == 4)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(both.client.call("POST", URL, deadline_ms=DEADLINE_MS))
            await started.wait()
            task.cancel()
            if is_drained:
                await server.close(5_000)
            else:
                keeper.close()
        assert call.result().body == b"last"
        await until(lambda: not both.client.links or not is_drained)

    play(world, story)

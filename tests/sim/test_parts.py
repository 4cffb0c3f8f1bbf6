"""The parts that a world is built of, one at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from penstock.kit.errors import ConnectFailed
from penstock.kit.ports import BusDown, StoreDown
from penstock.kit.tasks import Errands
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response
from penstock.kit.wire.server import Server
from penstock.ledger.state import Wanted
from penstock.sim.bus import MemoryBus
from penstock.sim.cast import Fault, Habit, Trait, draw_cast
from penstock.sim.engine import Habits, SimEngine, answer_words, asked_text
from penstock.sim.hosts import Host
from penstock.sim.keys import Keyring
from penstock.sim.lives import Database, Life, LifeBus, LifeOutbox, LifeStore
from penstock.sim.loop import VirtualLoop, run
from penstock.sim.net import MemoryNetwork
from penstock.sim.seeds import Chance
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.sim.stores_miner import MemoryOutbox
from penstock.sim.trace import Trace

HOUR_MS = 3_600_000
BODY = {"model": "m", "messages": [{"role": "user", "content": "how high is the dam"}]}


def virtually(story: Callable[[VirtualLoop, MemoryNetwork], Awaitable[None]]) -> None:
    """Run a story on a loop and a network of its own."""
    loop = VirtualLoop()

    async def main() -> None:
        await story(loop, MemoryNetwork(Chance(1).stream("net"), loop))

    run(main(), loop)


class TestChance:
    def test_a_stream_depends_on_seed_and_name_alone(self) -> None:
        chance = Chance(7)
        chance.stream("other").random()
        assert chance.stream("one").random() == Chance(7).stream("one").random()
        assert chance.stream("one").random() != chance.stream("two").random()
        assert chance.stream("one").random() != Chance(8).stream("one").random()

    def test_a_cast_can_be_read_before_it_is_played(self) -> None:
        assert draw_cast(3, length_ms=HOUR_MS) == draw_cast(3, length_ms=HOUR_MS)

    def test_every_trait_habit_and_fault_is_drawn_by_some_seed(self) -> None:
        casts = [draw_cast(seed, length_ms=HOUR_MS // 2) for seed in range(20)]
        assert {one.trait for cast in casts for one in cast.miners} == set(Trait)
        assert {one.habit for cast in casts for one in cast.people} == set(Habit)
        assert {one.fault for cast in casts for one in cast.faults} == set(Fault)

    def test_every_world_has_somebody_who_serves_each_chute(self) -> None:
        for seed in range(50):
            honest = [
                one for one in draw_cast(seed, length_ms=1).miners if one.trait is Trait.HONEST
            ]
            assert {chute for one in honest for chute in one.chutes} == {"sim/chat", "sim/embed"}


class TestTrace:
    def test_it_tells_order_time_and_words_apart(self) -> None:
        digests = set()
        for notes in (
            [(1, "a", "x"), (2, "a", "y")],
            [(2, "a", "y"), (1, "a", "x")],
            [(1, "a", "x")],
        ):
            trace = Trace()
            for note in notes:
                trace.note(*note)
            digests.add(trace.digest)
        assert len(digests) == 3


class TestKeys:
    def test_a_signature_holds_for_its_key_digest_and_world_only(self) -> None:
        ring, other = Keyring(b"one world"), Keyring(b"another")
        key, digest = ring.key("miner"), bytes(32)
        signature = key.sign(digest)
        assert ring.verify(key.identity, digest, signature)
        assert not ring.verify(key.identity, b"x" * 32, signature)
        assert not ring.verify(ring.key("gateway").identity, digest, signature)
        assert not other.verify(key.identity, digest, signature)

    def test_the_log_signs_for_real(self) -> None:
        ring = Keyring(b"one world")
        key = ring.log_key()
        assert key.identity.startswith("ed25519:")
        assert ring.verify(key.identity, bytes(32), key.sign(bytes(32)))
        assert not ring.verify(key.identity, bytes(32), "00" * 64)


class TestLives:
    async def test_a_dead_process_reaches_nobody(self) -> None:
        life = Life(host="h", number=1, is_over=True)
        bus, outbox = LifeBus(MemoryBus(), life), MemoryOutbox()
        with pytest.raises(BusDown):
            await bus.publish("events.x", b"1", event_id="1")
        with pytest.raises(BusDown):
            await bus.put("offers.x", b"1")
        LifeOutbox(outbox, life).append(b"line")
        assert outbox.load() == []

    async def test_a_store_that_is_away_says_so_before_or_after_the_commit(self) -> None:
        life, database = Life(host="h", number=1), Database(Chance(1).stream("db"))
        store = LifeStore(MemoryLedgerStore(), database, life)
        assert (await store.view(Wanted())).version == 0
        database.is_down = True
        with pytest.raises(StoreDown):
            await store.view(Wanted())

    def test_a_killed_host_is_gone_and_starts_again_with_nothing(self) -> None:
        async def story(loop: VirtualLoop, network: MemoryNetwork) -> None:
            lives: list[Life] = []

            async def hello(_request: Request) -> Response:
                return Response(200, str(len(lives)).encode())

            async def main(life: Life) -> None:
                lives.append(life)
                server = Server(network.at("h"), hello, entropy=Chance(1).entropy("s"))
                await server.start("h", 80)
                life.ready.set()
                try:
                    await life.stop.wait()
                finally:
                    await server.close(0)

            host = Host("h", main, network=network, errands=Errands())
            client = HttpClient(network)
            host.start()
            await host.wait_ready()
            assert (await client.call("GET", "http://h/", deadline_ms=1_000)).body == b"1"
            await host.kill()
            with pytest.raises(ConnectFailed):
                await client.call("GET", "http://h/", deadline_ms=1_000)
            host.start()
            await host.wait_ready()
            assert (await client.call("GET", "http://h/", deadline_ms=1_000)).body == b"2"
            assert [life.was_killed for life in lives] == [True, False]
            assert await host.stop()

        virtually(story)

    def test_a_station_that_ends_by_itself_is_reported(self) -> None:
        crashes: list[str] = []

        async def story(loop: VirtualLoop, network: MemoryNetwork) -> None:
            async def main(life: Life) -> None:
                await asyncio.sleep(1)

            errands = Errands(lambda name, error: crashes.append(f"{name}: {error}"))
            Host("h", main, network=network, errands=errands).start()
            await asyncio.sleep(2)

        virtually(story)
        assert crashes == ["h: h ended though nobody asked it to"]


class TestEngine:
    def ask(self, habits: Habits, body: dict[str, Any]) -> tuple[int, bytes]:
        found: list[tuple[int, bytes]] = []

        async def story(loop: VirtualLoop, network: MemoryNetwork) -> None:
            engine = SimEngine(habits, network=network.at("h"), entropy=Chance(1).entropy("e"))
            await engine.start(deadline_ms=10_000)
            client = HttpClient(network.at("h"))
            reply = await client.call(
                "POST",
                f"{engine.address}/v1/chat/completions",
                body=msgspec.json.encode(body),
                deadline_ms=60_000,
            )
            found.append((reply.status, reply.body))
            assert engine.running == 0
            await engine.stop(deadline_ms=100)
            assert (await engine.wait_exit()).wanted

        virtually(story)
        return found[0]

    def test_it_answers_what_anybody_can_compute(self) -> None:
        _, body = self.ask(Habits(), BODY)
        answer = msgspec.json.decode(body)
        words = answer_words(asked_text(BODY), None)
        assert answer["choices"][0]["message"]["content"] == " ".join(words)
        assert answer["usage"]["completion_tokens"] == len(words)

    def test_a_stream_says_the_same_and_ends(self) -> None:
        _, body = self.ask(Habits(), {**BODY, "stream": True})
        events = [line[6:] for line in body.split(b"\n\n") if line.startswith(b"data: ")]
        choices = [one for event in events[:-1] for one in msgspec.json.decode(event)["choices"]]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        assert text == " ".join(answer_words(asked_text(BODY), None))
        assert events[-1] == b"[DONE]"

    def test_it_lies_and_refuses_when_it_is_told_to(self) -> None:
        _, body = self.ask(Habits(claimed_ppm=3_000_000), BODY)
        words = answer_words(asked_text(BODY), None)
        assert msgspec.json.decode(body)["usage"]["completion_tokens"] == 3 * len(words)
        assert self.ask(Habits(refuses=True), BODY)[0] == 503

    def test_a_crash_breaks_what_it_was_saying(self) -> None:
        async def story(loop: VirtualLoop, network: MemoryNetwork) -> None:
            engine = SimEngine(Habits(), network=network.at("h"), entropy=Chance(1).entropy("e"))
            await engine.start(deadline_ms=10_000)
            await engine.crash()
            assert not (await engine.wait_exit()).wanted
            assert not (await engine.stats()).ready

        virtually(story)

"""Fast streams rest between reads, slow ones never, and nothing of either is lost or out of order."""

import asyncio

import pytest
from tests.stations.gateway.script import Script
from tests.stations.gateway.world import World, chat, play

from penstock.gateway.config import Deadlines
from penstock.gateway.gathering import US_PER_EVENT, Gathering
from penstock.sim.loop import VirtualLoop, run
from penstock.spec.receipts import Outcome

WORDS = tuple(f" w{number}" for number in range(120))


class Stream:
    """Notes when it may be read again."""

    def __init__(self) -> None:
        self.read_at: list[float] = []

    def read_on(self) -> None:
        self.read_at.append(asyncio.get_running_loop().time())


@pytest.mark.parametrize(
    ("events", "elapsed_us", "is_fast"),
    [
        (1, US_PER_EVENT - 1, True),
        (1, US_PER_EVENT, False),
        (16, 15 * US_PER_EVENT, True),
        (1, 20_000, False),
        (0, 0, False),
    ],
)
def test_fast_is_more_than_an_event_a_millisecond(
    events: int, elapsed_us: int, is_fast: bool
) -> None:
    assert Gathering(2).is_fast(events, elapsed_us) is is_fast
    assert Gathering(0).is_fast(events, elapsed_us) is False


def test_all_that_rest_are_read_on_at_one_tick_and_once() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        gathering, early, late, later = Gathering(2), Stream(), Stream(), Stream()
        began = loop.time()
        gathering.rest(early)
        await asyncio.sleep(0.0015)
        gathering.rest(late)
        await asyncio.sleep(0.1)
        assert early.read_at == late.read_at == [pytest.approx(began + 0.002)]
        gathering.rest(later)
        await asyncio.sleep(0.1)
        assert len(later.read_at) == 1
        assert len(early.read_at) == 1

    run(main(), loop)


@pytest.mark.parametrize("gather_ms", [0, 2, 50])
@pytest.mark.parametrize("cut_bytes", [0, 64])
def test_a_fast_stream_arrives_whole_however_long_it_rests(gather_ms: int, cut_bytes: int) -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=WORDS, cut_bytes=cut_bytes)
        heard = await world.hear(chat(stream=True, max_tokens=200))
        assert heard.text == "".join(WORDS)
        assert heard.word("countersign")["match"] is True
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE]

    play(scenario, deadlines=Deadlines(gather_ms=gather_ms))


def test_who_leaves_a_stream_that_rests_leaves_it_at_once() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=WORDS, word_ms=0, cut_bytes=64)
        await world.hear(chat(stream=True, max_tokens=200), leave_after=2)
        await world.at_rest()
        assert world.outcomes() == [Outcome.CLIENT_CANCELLED]

    play(scenario, deadlines=Deadlines(gather_ms=50))

"""What the gateway's own code costs a request and a chunk, stage by stage.

`python bench/run.py gateway_costs`. A whole gateway runs in this process on transports of memory
(gateway_stand.py): no kernel, hardly an event loop, one thread, the collector as in production. A batch
of requests goes through a stage before the next begins. Next to each a yardstick of plain Python is
timed, and what the stage took is told as if the yardstick had taken YARDSTICK_US: so what else the machine
does hardly shows, and runs can be compared. Medians over all batches; the pieces are timed by themselves,
at their best.

| stage | from | to |
|---|---|---|
| ask | the request's bytes | the order's bytes: HTTP, key, limits, body, plan, hold, order |
| answer | the miner's bytes | the client's: head, digest, receipt, outcome, countersignature |
| record | all orders ended | seals of orders, receipts and countersignatures, records published |
"""

import asyncio
import gc
import time
from collections.abc import Callable
from statistics import median

import uvloop
from bench.figures import Figure
from bench.gateway import cast as roles
from bench.gateway_stand import ENDPOINT, Asked, Stand

from penstock.gateway.app import COLLECT_AT
from penstock.gateway.bodies import CHAT_PATH, parse_body
from penstock.gateway.orders import Placed
from penstock.gateway.policy import prove
from penstock.gateway.tally import Tally
from penstock.gateway.wants import NO_WANTS
from penstock.kit.wire.http import Request
from penstock.kit.wire.intake import Intake
from penstock.kit.wire.limits import IntakeLimits

AT_ONCE = 64
BATCHES, BATCHES_QUICK = 300, 4
STREAMS, STREAMS_QUICK = 30, 1
CHUNKS = 256
YARDSTICK_STEPS, YARDSTICK_US = 1_000, 105
"""What the yardstick takes on the machine of docs/performance.md."""
ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"%b"}}]}' % (b"w" * 950)
EVENT = b"data: %b\n\n" % (b'{"choices":[{"delta":{"content":"' + b"w" * 140 + b'"}}]}')
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)


def measure(*, quick: bool) -> list[Figure]:
    """CPU microseconds by stage."""
    figures: list[Figure] = []
    for do in (_whole_answers, _streams, _pieces):
        figures += uvloop.run(do(quick))
    return figures


async def _whole_answers(quick: bool) -> list[Figure]:  # noqa: FBT001 -- one of three alike
    stand, request = await _ready(), roles.request(1, api_key=roles.API_KEY)
    times: dict[str, list[float]] = {"ask": [], "answer": [], "record": []}
    for _ in range(BATCHES_QUICK if quick else BATCHES):
        await _batch(stand, request, times)
    return _figures("1 KB request", times, per=AT_ONCE, unit="us/request")


async def _batch(stand: Stand, request: bytes, times: dict[str, list[float]]) -> None:
    """So many requests through all stages."""
    with Timed(times["ask"], stand):
        for protocol, _ in stand.clients:
            protocol.data_received(request)
    answers = []
    for asked in stand.miner.asked():
        word = stand.miner.word(asked.order, asked.digest, ANSWER, events=0)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-penstock-receipt: %b\r\n"
        head += b"content-length: %d\r\n\r\n"
        answers.append((asked.link, head % (word, len(ANSWER)) + ANSWER))
    with Timed(times["answer"], stand):
        for link, data in answers:
            link.data_received(data)
    with Timed(times["record"], stand):
        await stand.settle()
    _check(stand)


async def _streams(quick: bool) -> list[Figure]:  # noqa: FBT001 -- one of three alike
    """Streams whose reads hold many chunks, some, and one."""
    figures = []
    for chunks_a_read in (CHUNKS, 16, 1):
        stand, request = await _ready(), roles.request(1, api_key=roles.API_KEY, chunks=CHUNKS)
        times: dict[str, list[float]] = {"reads": []}
        for _ in range(STREAMS_QUICK if quick else STREAMS):
            for protocol, _ in stand.clients:
                protocol.data_received(request)
            await _stream(stand, times["reads"], chunks_a_read)
            await stand.settle()
            _check(stand)
        figures += _figures(
            f"stream, {chunks_a_read} chunks a read", times, per=AT_ONCE * CHUNKS, unit="us/chunk"
        )
    return figures


async def _stream(stand: Stand, times: list[float], chunks_a_read: int) -> None:
    """All streams at once, a read of each in turn. The last read, with the receipt, is not timed."""
    asked = stand.miner.asked()
    for one in asked:
        one.link.data_received(STREAM_HEAD)
    read = CHUNK * chunks_a_read
    with Timed(times, stand):
        for _ in range(CHUNKS // chunks_a_read):
            for one in asked:
                one.link.data_received(read)
    for one in asked:
        one.link.data_received(_end(stand, one))


def _end(stand: Stand, asked: Asked) -> bytes:
    word = stand.miner.word(asked.order, asked.digest, EVENT * CHUNKS, events=CHUNKS)
    last = b": penstock-receipt %b\n\n" % word
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last)


async def _pieces(quick: bool) -> list[Figure]:  # noqa: FBT001 -- one of three alike
    """Parts of the stages, each by itself."""
    stand, request = await _ready(), roles.request(1, api_key=roles.API_KEY)
    gateway, rounds = stand.gateway, 200 if quick else 5_000
    admission, peer = gateway.admission, gateway.sessions.peer_of(ENDPOINT, roles.MINER.identity)
    intake, body = Intake(IntakeLimits()), request[request.index(b"\r\n\r\n") + 4 :]
    call = parse_body(CHAT_PATH, body)
    plan = gateway.planner.plan(call, NO_WANTS)
    visitor = admission.visitor(Request("POST", CHAT_PATH, peer="127.0.0.1"))

    def place() -> Placed:
        placed = gateway.orders.place(
            call,
            plan.instances[0].offer,
            bounds=plan.bounds,
            account="bench",
            decision_digest=plan.decision_digest,
            session=peer.session,
        )
        placed.head_lines()
        return placed

    placed = place()
    word = stand.miner.word(placed.order, placed.digest, ANSWER, events=0)

    def admit() -> None:
        known = admission.known_key(roles.API_KEY, visitor)
        assert known is not None, "the bench's key is known"
        admission.check_rate(known)
        ticket = admission.try_enter(known, visitor, hold_nano=plan.hold_nano, work=500)
        assert ticket is not None, "the lease is large"
        ticket.settle(0)

    def proving() -> None:
        tally = Tally()
        tally.take_whole(ANSWER)
        tally.receipt = word
        assert prove(placed, tally, is_error=False, verify=gateway.verify).is_match

    pieces: dict[str, Callable[[], object]] = {
        "HTTP of the request": lambda: intake.feed(request),
        "the body": lambda: parse_body(CHAT_PATH, body),
        "key, limits, hold": admit,
        "the plan": lambda: gateway.planner.plan(call, NO_WANTS),
        "the order": place,
        "digest and receipt": proving,
    }
    return [
        Figure(f"piece: {name}", "CPU", "us", _timed(do, rounds)) for name, do in pieces.items()
    ]


class Timed:
    """The CPU time of a block in yardsticks, without what other stations took in it."""

    def __init__(self, times: list[float], stand: Stand) -> None:
        self._times = times
        self._miner = stand.miner

    def __enter__(self) -> None:
        self._yard_ns = yardstick_ns()
        self._before = time.process_time_ns() - self._miner.stranger_ns

    def __exit__(self, *_: object) -> None:
        spent_ns = time.process_time_ns() - self._miner.stranger_ns - self._before
        self._times.append(2 * spent_ns / (self._yard_ns + yardstick_ns()))


class Dot:
    """Something with fields, for the yardstick."""

    __slots__ = ("left", "seen")

    def __init__(self, left: int) -> None:
        self.left = left
        self.seen: dict[int, int] = {}

    def step(self, number: int) -> int:
        self.left -= 1
        self.seen[number & 63] = number
        return (number * 31 + self.left) % 65_521


def yardstick_ns() -> int:
    """The CPU time of a fixed piece of Python: calls, fields, a dictionary, small numbers."""
    before = time.process_time_ns()
    dot, number = Dot(YARDSTICK_STEPS), 1
    while dot.left:
        number = dot.step(number)
    return time.process_time_ns() - before


async def _ready() -> Stand:
    """A gateway with session, connections and warm caches; the collector as in production."""
    stand = Stand(AT_ONCE + 1)
    asyncio.get_running_loop().create_task(stand.gateway.recorder.publish())
    request = roles.request(1, api_key=roles.API_KEY)
    protocol, _ = stand.clients[0]
    protocol.data_received(request)
    while not (stand.gateway.sessions.open_count and stand.miner.came):  # noqa: ASYNC110 -- no event tells it
        await asyncio.sleep(0)
    stand.miner.came.clear()
    stand.clients = stand.clients[1:]
    for protocol, _ in stand.clients:
        protocol.data_received(request)
    while len(stand.miner.came) < len(stand.clients):  # noqa: ASYNC110 -- no event tells it
        await asyncio.sleep(0)
    for asked in stand.miner.asked():
        word = stand.miner.word(asked.order, asked.digest, ANSWER, events=0)
        head = b"HTTP/1.1 200 OK\r\nx-penstock-receipt: %b\r\ncontent-length: %d\r\n\r\n"
        asked.link.data_received(head % (word, len(ANSWER)) + ANSWER)
    await stand.settle()
    _check(stand)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)
    return stand


def _check(stand: Stand) -> None:
    """Every client was answered by 200; what they got is forgotten."""
    for _, wire in stand.clients:
        assert wire.written[0].startswith(b"HTTP/1.1 200 OK\r\n"), wire.written[0]
        wire.written.clear()


def _figures(target: str, times: dict[str, list[float]], *, per: int, unit: str) -> list[Figure]:
    values = {name: median(found) * YARDSTICK_US / per for name, found in times.items()}
    figures = [Figure(f"{target}: {name}", "CPU", unit, us) for name, us in values.items()]
    if len(values) > 1:
        figures.append(Figure(f"{target}: sum", "CPU", unit, sum(values.values())))
    return figures


def _timed(do: Callable[[], object], rounds: int) -> float:
    """CPU of one round: the best of ten."""
    best = float("inf")
    for _ in range(10):
        before = time.process_time_ns()
        for _ in range(rounds // 10):
            do()
        best = min(best, (time.process_time_ns() - before) / 1000 / (rounds // 10))
    return best

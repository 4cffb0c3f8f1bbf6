"""MemoryBus: the Bus port in memory, with the semantics of the real one and faults on demand.

Events are kept, sent once per event_id within two minutes, delivered at least once to each group
and again when not acknowledged. All waiting goes through the running loop, so on a virtual loop
the whole bus is deterministic; chance comes from the `Random` that is passed in.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from penstock.kit.bus_names import (
    check_group,
    check_message,
    check_pattern,
    check_prefix,
    check_subject,
    is_below,
    is_match,
)
from penstock.kit.ports import Answer, BusDown, Delivery, Progress
from penstock.kit.questions import Question, answering, question_queue

DUPLICATE_WINDOW_S = 120
EVENTS_MAX = 200_000
CHANGES_MAX = 10_000
UNACKED_MAX = 256
ACK_WAIT_MS = 30_000
PPM = 1_000_000


# A key and its new value; None: list everything anew.
_Change = tuple[str, bytes] | None


@dataclass(frozen=True, slots=True)
class BusFaults:
    """What goes wrong, and how often: `duplicate_ppm` of deliveries come twice; every call takes
    up to `delay_ms_max`.
    """

    rng: Random
    duplicate_ppm: int = 0
    delay_ms_max: int = 0


@dataclass(frozen=True, slots=True)
class _Event:
    number: int
    subject: str
    data: bytes


@dataclass(slots=True)
class _Group:
    """Where one durable consumer group stands."""

    pattern: str
    next_number: int
    # Delivered and neither acknowledged nor given up: number -> how often it was delivered.
    attempts: dict[int, int] = field(default_factory=dict)
    again: deque[_Event] = field(default_factory=deque)


class MemoryBus:
    """Set `down` to True to take the bus away (calls raise BusDown, iterators wait), False to
    bring it back; what was stored is still there.
    """

    def __init__(
        self,
        *,
        faults: BusFaults | None = None,
        ack_wait_ms: int = ACK_WAIT_MS,
        events_max: int = EVENTS_MAX,
    ) -> None:
        self._faults = faults
        self._ack_wait_ms = ack_wait_ms
        self._events: deque[_Event] = deque(maxlen=events_max)
        self._published = 0
        self._event_ids: OrderedDict[str, float] = OrderedDict()
        self._groups: dict[tuple[str, str], _Group] = {}
        self._board: dict[str, bytes] = {}
        self._changes: dict[object, asyncio.Queue[_Change]] = {}
        self._servers: dict[str, deque[asyncio.Queue[Question]]] = {}
        self._down = False
        self._pulse = asyncio.Event()

    @property
    def down(self) -> bool:
        return self._down

    @down.setter
    def down(self, value: bool) -> None:
        self._down = value
        for changes in self._changes.values() if value else ():
            self._note(changes, None)
        self._wake()

    @property
    def unacked_count(self) -> int:
        """Deliveries of all groups that wait for their acknowledgement (an at-rest check)."""
        return sum(len(group.attempts) for group in self._groups.values())

    async def publish(self, subject: str, data: bytes, *, event_id: str) -> None:
        """Return once stored. Raises BusDown."""
        check_subject(subject)
        check_message(data)
        await self._reach()
        now_s = asyncio.get_running_loop().time()
        while self._event_ids:
            oldest, stored_s = next(iter(self._event_ids.items()))
            if stored_s > now_s - DUPLICATE_WINDOW_S:
                break
            del self._event_ids[oldest]
        if event_id in self._event_ids:
            return
        self._event_ids[event_id] = now_s
        self._events.append(_Event(self._published, subject, bytes(data)))
        self._published += 1
        self._wake()

    async def consume(self, subject: str, *, group: str) -> AsyncGenerator[Delivery, None]:
        """Events for the durable `group`; several consumers of one group share them."""
        key = (check_group(group), check_pattern(subject))
        place = self._groups.setdefault(key, _Group(pattern=subject, next_number=0))
        while True:
            pulse = self._pulse
            event = None if self._down else self._take(place)
            if event is None:
                await pulse.wait()
            else:
                yield self._deliver(place, event)

    async def progress(self, subject: str, *, group: str) -> Progress:
        """How far the group has come. Raises BusDown."""
        await self._reach()
        place = self._groups.get((check_group(group), check_pattern(subject)))
        waiting = [] if place is None else list(place.attempts)
        first_new = 0 if place is None else place.next_number
        # Only the newest few are new; the rest is skipped without a look at each.
        first = max(first_new - self._events[0].number, 0) if self._events else 0
        waiting += [
            event.number
            for event in islice(self._events, first, None)
            if is_match(subject, event.subject)
        ]
        return Progress(self._published, min(waiting, default=self._published))

    async def put(self, key: str, value: bytes) -> None:
        """Set `key`; an empty value removes it. Raises BusDown."""
        check_subject(key)
        check_message(value)
        await self._reach()
        if value:
            self._board[key] = bytes(value)
        else:
            self._board.pop(key, None)
        for changes in self._changes.values():
            self._note(changes, (key, bytes(value)))

    async def watch(self, prefix: str) -> AsyncGenerator[tuple[str, bytes], None]:
        """Keys strictly below the level `prefix`; after an outage all of them once more."""
        level = check_prefix(prefix)
        known: set[str] = set()
        token = object()
        try:
            while True:
                while self._down:
                    await self._pulse.wait()
                changes = self._changes[token] = asyncio.Queue(maxsize=CHANGES_MAX)
                listing = {key: value for key, value in self._board.items() if is_below(level, key)}
                for gone in sorted(known.difference(listing)):
                    listing[gone] = b""
                for key, value in listing.items():
                    for told in _tell(known, key, value):
                        yield told
                while (change := await changes.get()) is not None:
                    if is_below(level, change[0]):
                        for told in _tell(known, *change):
                            yield told
        finally:
            self._changes.pop(token, None)

    async def ask(self, subject: str, data: bytes, *, deadline_ms: int) -> bytes:
        """The answer of one of those who serve `subject`. Raises BusDown."""
        check_subject(subject)
        check_message(data)
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def reply(answer: bytes) -> None:
            if not answered.done():
                answered.set_result(bytes(check_message(answer)))

        try:
            async with asyncio.timeout(deadline_ms / 1000):
                await self._reach()
                server = await self._server_of(subject)
                if not server.full():
                    server.put_nowait(Question(bytes(data), reply))
                return await answered
        except TimeoutError as error:
            raise BusDown(f"nobody answered {subject} in {deadline_ms} ms") from error

    @asynccontextmanager
    async def answer(self, subject: str, handler: Answer) -> AsyncIterator[None]:
        """Serve `subject` while open, several questions at a time."""
        questions = question_queue()
        servers = self._servers.setdefault(check_subject(subject), deque())
        servers.append(questions)
        self._wake()
        try:
            async with answering(questions, handler):
                yield
        finally:
            servers.remove(questions)

    async def _reach(self) -> None:
        """What every call does first: take its time, and find the bus there or not."""
        faults = self._faults
        if faults is not None and faults.delay_ms_max:
            await asyncio.sleep(faults.rng.randrange(faults.delay_ms_max + 1) / 1000)
        if self._down:
            raise BusDown("the bus is down")

    async def _server_of(self, subject: str) -> asyncio.Queue[Question]:
        """The next server in turn; waits for one to appear (the asker's deadline is the bound)."""
        while True:
            pulse = self._pulse
            servers = self._servers.get(subject)
            if servers and not self._down:
                servers.rotate(-1)
                return servers[-1]
            await pulse.wait()

    def _take(self, place: _Group) -> _Event | None:
        """The next event for a group: one to deliver again, else the next new one."""
        while place.again:
            event = place.again.popleft()
            if event.number in place.attempts:
                return event
        if len(place.attempts) >= UNACKED_MAX or not self._events:
            return None
        oldest = self._events[0].number
        for index in range(max(place.next_number - oldest, 0), len(self._events)):
            event = self._events[index]
            place.next_number = event.number + 1
            if is_match(place.pattern, event.subject):
                place.attempts[event.number] = 0
                return event
        return None

    def _deliver(self, place: _Group, event: _Event) -> Delivery:
        place.attempts[event.number] += 1
        attempt = place.attempts[event.number]
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._ack_wait_ms / 1000, self._again, place, event, attempt)
        if attempt == 1 and self._is_duplicated():
            place.again.append(event)

        async def ack() -> None:
            if not self._down:
                timer.cancel()
                place.attempts.pop(event.number, None)
                self._wake()

        return Delivery(subject=event.subject, data=event.data, attempt=attempt, ack=ack)

    def _is_duplicated(self) -> bool:
        faults = self._faults
        return faults is not None and faults.rng.randrange(PPM) < faults.duplicate_ppm

    def _again(self, place: _Group, event: _Event, attempt: int) -> None:
        """The wait for an acknowledgement is over: unless it came, deliver once more."""
        if place.attempts.get(event.number) == attempt:
            place.again.append(event)
            self._wake()

    def _note(self, changes: asyncio.Queue[_Change], change: _Change) -> None:
        """Tell one watcher. One that is too far behind lists everything anew instead."""
        if changes.full():
            while not changes.empty():
                changes.get_nowait()
            change = None
        changes.put_nowait(change)

    def _wake(self) -> None:
        """Wake whoever waits for something to have changed."""
        pulse, self._pulse = self._pulse, asyncio.Event()
        pulse.set()


def _tell(known: set[str], key: str, value: bytes) -> list[tuple[str, bytes]]:
    """What a watcher that knows `known` hears; the removal of a key it never saw is no news."""
    if value:
        known.add(key)
    elif key in known:
        known.discard(key)
    else:
        return []
    return [(key, value)]

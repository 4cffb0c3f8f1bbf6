"""Clients that ask all the time and remember what each of them was told.

They run in a thread with a loop of their own, so that a test can break things meanwhile in plain
sequence.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from penstock.client.client import AsyncClient
from penstock.client.errors import ApiError, ClientError

STORY = "Tell me a long story."
LONG = {"max_tokens": 450, "ignore_eos": True}
"""The small model says little by itself, and says it fast: it is kept from ending."""
ERROR_PAUSE_S = 0.05
END_DEADLINE_S = 100
TOLD_MAX = 50_000


@dataclass
class Told:
    """What one client knows of its request. `charge_nano` is None until it was told one; `seen_s` is
    when it learned the order's id (monotonic).

    `is_paid_for` says that the answer came whole with both signatures under it.
    """

    worker: int
    is_streamed: bool
    order_id: str = ""
    seen_s: float = 0.0
    pieces: int = 0
    charge_nano: int | None = None
    error: str = ""
    is_over: bool = False

    @property
    def is_paid_for(self) -> bool:
        return self.charge_nano is not None and not self.error


@dataclass
class Load:
    """`with Load(url, key, parallel=8) as load:`; leaving it waits for the running requests."""

    base_url: str
    api_key: str
    parallel: int = 8
    model: str = "tiny-chat"
    told: list[Told] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _crash: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(END_DEADLINE_S)
        if kind is None:
            assert not self._thread.is_alive(), "a client still waits for its answer"
            assert not self._crash, self._crash

    # What a test waits for ----------------------------------------------------------------------

    def answered(self, since: int = 0, *, worker: Callable[[Told], bool] | None = None) -> int:
        """How many answers came whole, counted from the `since`th request."""
        told = self.told[since:]
        return sum(one.is_paid_for and (worker is None or worker(one)) for one in told)

    @property
    def streaming(self) -> int:
        """Streams that have brought text and have not ended."""
        return sum(one.is_streamed and one.pieces > 0 and not one.is_over for one in self.told)

    @property
    def running(self) -> int:
        return sum(not one.is_over for one in self.told)

    # The clients --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # noqa: BLE001 - told to the test when it leaves
            self._crash.append(error)

    async def _all(self) -> None:
        async with (
            AsyncClient(self.base_url, self.api_key) as client,
            asyncio.TaskGroup() as group,
        ):
            for worker in range(self.parallel):
                group.create_task(self._work(client, worker))

    async def _work(self, client: AsyncClient, worker: int) -> None:
        """One client: every fourth takes its answers whole, the others read streams."""
        turn = 0
        while not self._stop.is_set():
            assert len(self.told) < TOLD_MAX, "the load is meant to be short"
            told = Told(worker=worker, is_streamed=worker % 4 != 3)
            self.told.append(told)
            turn += 1
            text = f"{STORY} Number {worker} {turn}."
            try:
                if told.is_streamed:
                    await self._stream(client, told, text)
                else:
                    answer = await client.chat(self.model, text, **LONG)
                    told.order_id, told.charge_nano = answer.order_id, answer.charge_nano
            except ApiError as error:
                told.error = error.code or str(error.status)
            except ClientError as error:
                told.error = f"{type(error).__name__}: {error}"
            told.seen_s = told.seen_s or time.monotonic()
            told.is_over = True
            if told.error:
                await asyncio.sleep(ERROR_PAUSE_S)

    async def _stream(self, client: AsyncClient, told: Told, text: str) -> None:
        async with client.stream_chat(self.model, text, **LONG) as stream:
            told.order_id, told.seen_s = stream.order_id, time.monotonic()
            async for _ in stream:
                told.pieces += 1
            countersign = stream.signed.countersign
            assert countersign is not None, "a stream that ends well is countersigned"
            told.charge_nano = countersign.charge_nano

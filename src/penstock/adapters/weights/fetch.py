"""Weights: what a manifest names, on this disk, proven.

`fetch` asks the source that the manifest names, then the operator's mirrors, then other miners, until
every file's digest fits. Whoever asks for a model that is being fetched already waits for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from penstock.adapters.files import FULL
from penstock.adapters.weights.bringer import Bringer, Failures, as_weights_error
from penstock.adapters.weights.courier import Courier
from penstock.adapters.weights.errors import (
    DigestMissing,
    DiskFailed,
    DiskShort,
    NoSourceLeft,
    NotFetched,
    WeightsError,
)
from penstock.adapters.weights.hub import PUBLIC_HUB, HubSource
from penstock.adapters.weights.in_place import InPlace
from penstock.adapters.weights.model import Model
from penstock.adapters.weights.patience import Patience, Rest, Waiting
from penstock.adapters.weights.progress import Meter, OnProgress, ignore
from penstock.adapters.weights.reference import (
    FileReference,
    HubReference,
    Reference,
    StoreReference,
    UrlReference,
    parse_reference,
)
from penstock.adapters.weights.room import Room
from penstock.adapters.weights.sources import AskHeaders, DigestSource, Source, UrlSource
from penstock.adapters.weights.store import WeightStore, blob_lock, model_lock
from penstock.kit.errors import WireError
from penstock.kit.log import events
from penstock.kit.ports import Clock
from penstock.spec.weights import WeightFile, is_sha256

_log = events("weights")


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look. `hub_token` was read from a file; `ask` signs questions to other miners."""

    hub: str = PUBLIC_HUB
    hub_token: str = ""
    mirrors: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    ask: AskHeaders | None = None


class Weights:
    """Fetches into one store. Close it at the end."""

    def __init__(
        self,
        store: WeightStore,
        room: Room,
        *,
        courier: Courier,
        clock: Clock,
        places: Places,
        patience: Patience | None = None,
    ) -> None:
        self.store = store
        self._room = room
        self._courier = courier
        self._clock = clock
        self._places = places
        self._patience = patience if patience is not None else Patience()
        self._in_place = InPlace(store.root / "in_place")

    async def close(self) -> None:
        """Drop the connections that rest."""
        await self._courier.close()

    async def digest(self, reference: str) -> str:
        """What a manifest should name: of a hub without fetching its large files, of a file by reading
        it. Raises WeightsError.
        """
        parsed = parse_reference(reference)
        if isinstance(parsed, FileReference):
            return await asyncio.to_thread(self._in_place.digest, parsed.path)
        if not isinstance(parsed, HubReference):
            raise DigestMissing(reference)
        source = self._named(parsed)
        try:
            return (await source.model("")).digest
        except WireError as error:
            raise as_weights_error(source, error) from error

    async def fetch(
        self,
        reference: str,
        want_sha256: str,
        *,
        on_progress: OnProgress = ignore,
        holder: str = "",
    ) -> Path:
        """The file or folder of these weights, proven by its digest. Raises WeightsError.

        With a holder (an instance's name) it stays until `store.unpin`.
        """
        parsed = parse_reference(reference)
        if isinstance(parsed, FileReference):
            return await asyncio.to_thread(self._in_place.check, parsed.path, want_sha256)
        if not is_sha256(want_sha256):
            raise DigestMissing(reference)
        meter = Meter(self._clock, on_progress, total_bytes=0)
        watch = partial(self._coming_bytes, want_sha256, meter)
        try:
            async with self._locked(model_lock(want_sha256), meter, watch):
                meter.waits, meter.done_bytes = False, 0
                try:
                    path = self.store.path(want_sha256)
                except NotFetched:
                    path = await self._bring(parsed, want_sha256, meter=meter, holder=holder)
                if holder:
                    self.store.pin(want_sha256, holder)
                return path
        except WeightsError:
            self.store.unpin(want_sha256, holder)
            raise
        except OSError as error:
            self.store.unpin(want_sha256, holder)
            if error.errno in FULL:
                raise DiskShort(self.store.root, meter.total_bytes, 0) from error
            raise DiskFailed(self.store.root, error.strerror or str(error)) from error

    async def _bring(
        self, parsed: Reference, want_sha256: str, *, meter: Meter, holder: str
    ) -> Path:
        named = self._named(parsed)
        sources = [named, *self._others(named)]
        model, failures = await self._model(sources, want_sha256)
        await asyncio.to_thread(self._room.claim, model, is_public=named.is_public, holder=holder)
        meter.total_bytes = model.size_bytes
        bringer = Bringer(self.store, self._courier, self._clock, self._patience, meter, failures)
        for file in unique(model.files):
            async with self._locked(
                blob_lock(file.sha256), meter, partial(self.store.held_bytes, file.sha256)
            ):
                meter.waits, meter.file = False, file.path
                if self.store.has_blob(file):
                    meter.found(file.size_bytes)
                else:
                    await bringer.bring(file, sources)
        meter.tell()
        _log.info("weights.fetched", digest=model.digest, bytes=model.size_bytes)
        return await asyncio.to_thread(self.store.publish, model, is_public=named.is_public)

    async def _model(self, sources: Sequence[Source], want_sha256: str) -> tuple[Model, Failures]:
        """What the digest stands for, by the first source that proves it."""
        failures: Failures = []
        for source in sources:
            rest = Rest(self._patience)
            while True:
                try:
                    return await source.model(want_sha256), failures
                except (WeightsError, WireError) as error:
                    failed = as_weights_error(source, error)
                    if not await rest.again(failed):
                        failures.append((source.name, failed))
                        break
        raise NoSourceLeft(want_sha256, tuple(failures))

    def _locked(
        self, name: str, meter: Meter, here_bytes: Callable[[], int]
    ) -> AbstractAsyncContextManager[None]:
        """The lock; while another has it we watch what it brings. Raises FetchBusy."""
        waiting = Waiting(
            digest=name.partition("-")[2],
            meter=meter,
            clock=self._clock,
            busy_ms=self._patience.busy_ms,
            here_bytes=here_bytes,
            pid=partial(self.store.locks.holder, name),
        )
        return self.store.locks.held(name, still=waiting.look)

    def _coming_bytes(self, digest: str, meter: Meter) -> int:
        """What another process has brought of a model so far; its size becomes known on the way."""
        record = self.store.record(digest)
        if record is None:
            return 0
        here_bytes = self.store.here_bytes(record.model)
        meter.total_bytes, meter.done_bytes = record.model.size_bytes, here_bytes
        return here_bytes

    def _others(self, named: Source) -> list[Source]:
        """The operator's mirrors, then other miners."""
        places = self._places
        mirrors = [DigestSource(url.rstrip("/"), self._courier) for url in places.mirrors]
        peers = [
            DigestSource(f"{url.rstrip('/')}/v1/weights", self._courier, True, places.ask)
            for url in places.peers
        ]
        return [source for source in (*mirrors, *peers) if source.name != named.name]

    def _named(self, parsed: Reference) -> Source:
        places = self._places
        match parsed:
            case HubReference():
                return HubSource(places.hub, parsed, self._courier, places.hub_token)
            case UrlReference():
                return UrlSource(parsed.url, parsed.name, self._courier)
            case StoreReference():
                return DigestSource(parsed.url, self._courier, parsed.is_peer, places.ask)
            case FileReference():
                raise AssertionError("files are used where they are")


def unique(files: Sequence[WeightFile]) -> list[WeightFile]:
    """Small files first, and the same bytes only once."""
    by_digest = {file.sha256: file for file in files}
    return sorted(by_digest.values(), key=lambda file: (file.size_bytes, file.path))

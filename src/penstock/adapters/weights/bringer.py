"""One file of a model, from whichever source gives it: tried, resumed, proven, put into its place."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.adapters.weights.courier import Courier
from penstock.adapters.weights.errors import (
    DigestWrong,
    NoSourceLeft,
    SourceRefused,
    WeightsError,
)
from penstock.adapters.weights.formats import HEAD_BYTES, check_head, check_name
from penstock.adapters.weights.part import Part
from penstock.adapters.weights.patience import Patience, Rest
from penstock.adapters.weights.progress import Meter
from penstock.adapters.weights.sources import Source
from penstock.adapters.weights.store import WeightStore
from penstock.adapters.weights.transfer import Transfer
from penstock.kit.errors import WireError
from penstock.kit.log import events
from penstock.kit.ports import Clock
from penstock.spec.weights import WeightFile

Failures = list[tuple[str, WeightsError]]

_log = events("weights")


@dataclass(frozen=True, slots=True)
class Bringer:
    """Brings the files of one model; `failures` tell of the sources that were tried before."""

    store: WeightStore
    courier: Courier
    clock: Clock
    patience: Patience
    meter: Meter
    failures: Failures

    async def bring(self, file: WeightFile, sources: Sequence[Source]) -> None:
        """Fetch one file, with its lock held. Raises NoSourceLeft, OSError (the disk).

        When the disk is full the part is removed: the node's receipts need room more.
        """
        part = Part(self.store.partial(file.sha256))
        try:
            await asyncio.to_thread(part.rehash, bytes_max=file.size_bytes)
            self.meter.found(part.size_bytes)
            for source in sources:
                self.meter.source = source.name
                try:
                    await self._from(source, file, part)
                except WeightsError as error:
                    _log.warning("weights.source_failed", source=source.name, reason=str(error))
                    self.failures.append((source.name, error))
                else:
                    await asyncio.to_thread(part.move, self.store.blob(file.sha256))
                    return
            if not part.size_bytes:
                part.discard()
        except OSError:
            part.discard()
            raise
        finally:
            part.close()
        raise NoSourceLeft(file.sha256, tuple(self.failures))

    async def _from(self, source: Source, file: WeightFile, part: Part) -> None:
        """Bring the part to its end, and prove it. Raises WeightsError; a wrong part is emptied."""
        etag = ""
        rest = Rest(self.patience)
        while True:
            before_bytes = part.size_bytes
            try:
                etag = await self._pull(source, file, part, etag=etag)
                await asyncio.to_thread(check_part, part, file, source.name)
            except (WeightsError, WireError) as error:
                failed = as_weights_error(source, error)
                if isinstance(failed, DigestWrong):
                    was_resumed = part.resumed_bytes > 0
                    self.meter.found(-part.size_bytes)
                    await asyncio.to_thread(part.restart)
                    if was_resumed:
                        continue  # an earlier source may have spoiled it: this one gets a clean try
                elif part.size_bytes > before_bytes:
                    rest.renew()
                if not await rest.again(failed):
                    part.resumed_bytes = part.size_bytes  # unproven, for the next source
                    raise failed from error
            else:
                return

    async def _pull(self, source: Source, file: WeightFile, part: Part, *, etag: str) -> str:
        """The ETag of the reply, "" where there was none."""
        if part.size_bytes == file.size_bytes:
            return etag
        small = source.small(file)
        if small is not None:
            self.meter.found(-part.size_bytes)
            await asyncio.to_thread(part.restart)
            await asyncio.to_thread(part.append, [small])
            self.meter.came(len(small))
            return ""
        address = source.address(file)
        if address is None:
            raise SourceRefused(source.name, f"it has no {file.path}")
        transfer = Transfer(self.courier, self.clock, self.meter)
        return await transfer.run(part, address, size_bytes=file.size_bytes, etag=etag)


def check_part(part: Part, file: WeightFile, source: str) -> None:
    """Raises DigestWrong, FormatRefused."""
    got = part.digest()
    if got != file.sha256:
        raise DigestWrong(file.path, source, file.sha256, got)
    check_name(file.path, source=source)
    check_head(file.path, part.head(HEAD_BYTES), size_bytes=file.size_bytes)


def as_weights_error(source: Source, error: WeightsError | WireError) -> WeightsError:
    """What broke on the wire may work the next time."""
    if isinstance(error, WeightsError):
        return error
    return SourceRefused(source.name, str(error), is_lasting=False)

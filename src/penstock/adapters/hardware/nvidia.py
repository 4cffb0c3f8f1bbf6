"""NVIDIA cards, through the driver's own library where it is installed (`nvidia-ml-py`).

Without the library, a driver or a card there are simply none. A card that has fallen off the bus
is left out; the others stay. Of a card that is cut into MIG slices each slice counts, since that is
what an engine can be given; an uncut remainder cannot be used.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from penstock.kit.hardware import Gpu, GpuReading, Maker

CARDS_MAX = 64
SLICES_MAX = 8
MIG_ENABLED = 1
PPM_PER_PERCENT = 10_000
MILLI = 1_000


def nvidia_library() -> Any | None:
    """The library, if it is installed."""
    return import_module("pynvml") if find_spec("pynvml") is not None else None


class Nvidia:
    """The cards of one machine. The driver is asked anew each time: cards come and go."""

    def __init__(self, library: Any | None) -> None:
        self._library = library

    def cards(self) -> tuple[Gpu, ...]:
        """All cards and slices. Never raises."""
        return tuple(self._asked(self._cards))

    def readings(self) -> tuple[GpuReading, ...]:
        """How busy each of `cards` is now. Never raises."""
        return tuple(self._asked(self._readings))

    def _asked(self, ask: "Callable[[Any], Iterator[Any]]") -> list[Any]:
        library = self._library
        if library is None:
            return []
        try:
            library.nvmlInit()
        except library.NVMLError:
            return []
        try:
            return list(ask(library))
        finally:
            self._or_none(library.nvmlShutdown)

    def _cards(self, library: Any) -> Iterator[Gpu]:
        driver = text(self._or_none(library.nvmlSystemGetDriverVersion))
        for board in self._boards(library):
            uuid = text(self._or_none(library.nvmlDeviceGetUUID, board))
            pci = self._or_none(library.nvmlDeviceGetPciInfo, board)
            for handle in self._usable(library, board):
                own = text(self._or_none(library.nvmlDeviceGetUUID, handle))
                name = text(self._or_none(library.nvmlDeviceGetName, handle))
                memory = self._or_none(library.nvmlDeviceGetMemoryInfo, handle)
                if not own or not name or memory is None:
                    continue
                yield Gpu(
                    model=name,
                    uuid=own,
                    memory_bytes=int(memory.total),
                    maker=Maker.NVIDIA,
                    board=uuid,
                    bus=bus_of(text(pci.busId)) if pci is not None else "",
                    driver=driver,
                )

    def _readings(self, library: Any) -> Iterator[GpuReading]:
        for board in self._boards(library):
            for handle in self._usable(library, board):
                uuid = text(self._or_none(library.nvmlDeviceGetUUID, handle))
                if uuid:
                    yield self._reading(library, handle, uuid, board=board)

    def _reading(self, library: Any, handle: Any, uuid: str, *, board: Any) -> GpuReading:
        """Power and heat are the board's also where a slice is asked; its share of work is not told."""
        memory = self._or_none(library.nvmlDeviceGetMemoryInfo, handle)
        rates = self._or_none(library.nvmlDeviceGetUtilizationRates, handle)
        degrees = self._or_none(
            library.nvmlDeviceGetTemperature, board, library.NVML_TEMPERATURE_GPU
        )
        return GpuReading(
            uuid=uuid,
            memory_used_bytes=None if memory is None else int(memory.used),
            busy_ppm=None if rates is None else int(rates.gpu) * PPM_PER_PERCENT,
            power_mw=self._or_none(library.nvmlDeviceGetPowerUsage, board),
            power_max_mw=self._or_none(library.nvmlDeviceGetEnforcedPowerLimit, board),
            temperature_mc=None if degrees is None else int(degrees) * MILLI,
        )

    def _boards(self, library: Any) -> list[Any]:
        count = self._or_none(library.nvmlDeviceGetCount) or 0
        found = [
            self._or_none(library.nvmlDeviceGetHandleByIndex, index)
            for index in range(min(count, CARDS_MAX))
        ]
        return [handle for handle in found if handle is not None]

    def _usable(self, library: Any, board: Any) -> list[Any]:
        """The card itself, or its slices where it is cut."""
        mode = self._or_none(library.nvmlDeviceGetMigMode, board)
        if mode is None or mode[0] != MIG_ENABLED:
            return [board]
        count = self._or_none(library.nvmlDeviceGetMaxMigDeviceCount, board) or 0
        found = [
            self._or_none(library.nvmlDeviceGetMigDeviceHandleByIndex, board, index)
            for index in range(min(count, SLICES_MAX))
        ]
        return [handle for handle in found if handle is not None]

    def _or_none(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What the driver answers; None where it does not, or this card does not know."""
        assert self._library is not None
        try:
            return call(*arguments)
        except self._library.NVMLError:
            return None


def text(value: str | bytes | None) -> str:
    """Older releases of the library answer in bytes."""
    if value is None:
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def bus_of(address: str) -> str:
    """`00000000:C1:00.0` -> `0000:c1:00.0`, as the kernel writes it."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]}:{rest}" if rest else ""

"""What a machine is and how busy it is, as plain facts: who reads them is in `adapters/hardware`.

A fact that cannot be read is left out (empty, 0 or None), never guessed.
"""

from dataclasses import dataclass
from enum import StrEnum


class Maker(StrEnum):
    """Who made a graphics card, so which driver and which engines fit it."""

    NVIDIA = "nvidia"
    AMD = "amd"
    APPLE = "apple"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card, or one MIG slice of it, as its driver names it.

    `uuid` is what an engine is told to use. `board` is the uuid of the physical card: slices of one
    card share it. `bus` is the PCI address, `0000:c1:00.0`. Memory that is shared with the processor
    (`is_unified`) is only what the system lends to the card.
    """

    model: str
    uuid: str
    memory_bytes: int
    maker: Maker = Maker.NVIDIA
    board: str = ""
    bus: str = ""
    driver: str = ""
    is_unified: bool = False

    @property
    def physical(self) -> str:
        """What names the physical card."""
        return self.board or self.uuid


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A card at one moment. None: this card does not say."""

    uuid: str
    memory_used_bytes: int | None = None
    busy_ppm: int | None = None
    power_mw: int | None = None
    power_max_mw: int | None = None
    temperature_mc: int | None = None
    """Thousandths of a degree Celsius."""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine around the cards. `cores_milli` and `memory_bytes` are what this process may use:
    a container's quota counts, not the host's size, which is in the `host_` fields.
    """

    model: str = ""
    cores_milli: int = 0
    memory_bytes: int = 0
    host_cores: int = 0
    host_memory_bytes: int = 0
    flags: tuple[str, ...] = ()
    """Instructions that engines gain by: `avx2`, `avx512f`, `amx_tile`, `asimd` and their kin."""
    board: tuple[str, ...] = ()
    """Facts that name the physical machine and survive a reinstallation."""


@dataclass(frozen=True, slots=True)
class HostReading:
    """The machine at one moment. Ticks count up from its start: take two readings for a share."""

    busy_ticks: int = 0
    total_ticks: int = 0
    memory_used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """All at one moment."""

    host: HostReading
    gpus: tuple[GpuReading, ...]


def busy_ppm(before: HostReading, after: HostReading) -> int:
    """The share of the processor that was in use between two readings; 0 where nothing passed."""
    passed = after.total_ticks - before.total_ticks
    busy = after.busy_ticks - before.busy_ticks
    return min(max(busy, 0) * 1_000_000 // passed, 1_000_000) if passed > 0 else 0

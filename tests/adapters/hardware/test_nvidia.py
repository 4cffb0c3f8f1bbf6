"""NVIDIA cards as the driver's library tells them. The library is NVIDIA's and there is no card here,
so it is played: names and return shapes are those of `pynvml` 13.615 (read in its source), the MIG
card is the A100 whose `nvidia-smi -L` stands in DataDog/datadog-agent pull request 33120.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.adapters.hardware.nvidia import (
    CARDS_MAX,
    SLICES_MAX,
    Nvidia,
    bus_of,
    nvidia_library,
)
from penstock.kit.hardware import Gpu, GpuReading, Maker

GIB = 1 << 30
A100 = "GPU-7fdaf0a5-179b-f636-d15d-daf243e3ff16"
SLICE_A, SLICE_B = (
    "MIG-feb88891-0321-5fef-9c87-d4af3b54259e",
    "MIG-a25704ba-3a06-5299-a795-fd7cf4d13973",
)


class DriverError(Exception):
    """What pynvml raises for everything."""


@dataclass(frozen=True)
class Card:
    """One handle: a card, or a slice of one."""

    name: str | bytes
    uuid: str | bytes
    total: int = 80 * GIB
    slices: tuple["Card", ...] = ()
    silent: frozenset[str] = frozenset()
    """Calls that this card does not know."""


@dataclass
class Library:
    """The part of the `pynvml` module that is used; `broken` calls fail for all cards."""

    cards: list[Card] = field(default_factory=list)
    broken: frozenset[str] = frozenset()
    open_count: int = 0
    closed: int = 0
    NVMLError: type[Exception] = DriverError
    NVML_TEMPERATURE_GPU: int = 0

    def __getattr__(self, name: str) -> Any:
        answer = getattr(Library, f"_{name}", None)
        if answer is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            card = arguments[0] if arguments else None
            if name in self.broken or (isinstance(card, Card) and name in card.silent):
                raise DriverError
            return answer(self, *arguments)

        return call

    def _nvmlInit(self) -> None:  # noqa: N802 - NVIDIA's name
        self.open_count += 1

    def _nvmlShutdown(self) -> None:  # noqa: N802 - NVIDIA's name
        self.open_count -= 1
        self.closed += 1

    def _nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802 - NVIDIA's name
        return "580.95.05"

    def _nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVIDIA's name
        return len(self.cards)

    def _nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802 - NVIDIA's name
        return self.cards[index]

    def _nvmlDeviceGetName(self, card: Card) -> str | bytes:  # noqa: N802 - NVIDIA's name
        return card.name

    def _nvmlDeviceGetUUID(self, card: Card) -> str | bytes:  # noqa: N802 - NVIDIA's name
        return card.uuid

    def _nvmlDeviceGetMemoryInfo(self, card: Card) -> Any:  # noqa: N802 - NVIDIA's name
        return SimpleNamespace(total=card.total, used=card.total // 4, free=0)

    def _nvmlDeviceGetPciInfo(self, card: Card) -> Any:  # noqa: N802 - NVIDIA's name
        return SimpleNamespace(busId=b"00000000:C1:00.0")

    def _nvmlDeviceGetMigMode(self, card: Card) -> list[int]:  # noqa: N802 - NVIDIA's name
        return [1, 1] if card.slices else [0, 0]

    def _nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:  # noqa: N802 - NVIDIA's name
        return 7

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:  # noqa: N802 - NVIDIA's name
        if index >= len(card.slices):
            raise DriverError
        return card.slices[index]

    def _nvmlDeviceGetUtilizationRates(self, card: Card) -> Any:  # noqa: N802 - NVIDIA's name
        if str(card.uuid).startswith("MIG"):
            raise DriverError
        return SimpleNamespace(gpu=37, memory=12)

    def _nvmlDeviceGetTemperature(self, card: Card, sensor: int) -> int:  # noqa: N802 - NVIDIA's name
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 61

    def _nvmlDeviceGetPowerUsage(self, card: Card) -> int:  # noqa: N802 - NVIDIA's name
        return 312_456

    def _nvmlDeviceGetEnforcedPowerLimit(self, card: Card) -> int:  # noqa: N802 - NVIDIA's name
        return 700_000


H100 = Card("NVIDIA H100 80GB HBM3", "GPU-0000")
L4 = Card("NVIDIA L4", "GPU-0001", 24 * GIB)
CUT = Card(
    "NVIDIA A100-SXM4-80GB",
    A100,
    slices=(
        Card("NVIDIA A100-SXM4-80GB MIG 1g.10gb", SLICE_A, 10 * GIB),
        Card("NVIDIA A100-SXM4-80GB MIG 1g.10gb", SLICE_B, 10 * GIB),
    ),
)


def test_cards_come_in_the_drivers_order_with_all_that_names_them() -> None:
    library = Library([H100, L4])
    first, second = Nvidia(library).cards()
    assert first == Gpu(
        model="NVIDIA H100 80GB HBM3",
        uuid="GPU-0000",
        memory_bytes=80 * GIB,
        maker=Maker.NVIDIA,
        board="GPU-0000",
        bus="0000:c1:00.0",
        driver="580.95.05",
    )
    assert (second.model, second.memory_bytes) == ("NVIDIA L4", 24 * GIB)
    assert (library.open_count, library.closed) == (0, 1)


def test_a_reading_has_memory_load_power_and_heat_in_our_units() -> None:
    (reading,) = Nvidia(Library([H100])).readings()
    assert reading == GpuReading(
        uuid="GPU-0000",
        memory_used_bytes=20 * GIB,
        busy_ppm=370_000,
        power_mw=312_456,
        power_max_mw=700_000,
        temperature_mc=61_000,
    )


def test_of_a_card_that_is_cut_each_slice_counts_and_names_its_board() -> None:
    nvidia = Nvidia(Library([CUT, L4]))
    cards = nvidia.cards()
    assert [card.uuid for card in cards] == [SLICE_A, SLICE_B, "GPU-0001"]
    assert {card.physical for card in cards} == {A100, "GPU-0001"}
    assert [card.memory_bytes // GIB for card in cards] == [10, 10, 24]
    first = nvidia.readings()[0]
    assert (first.uuid, first.busy_ppm, first.power_mw) == (SLICE_A, None, 312_456)


def test_older_libraries_answer_in_bytes() -> None:
    (card,) = Nvidia(Library([Card(b"Tesla T4\xff", b"GPU-1")])).cards()
    assert (card.model, card.uuid) == ("Tesla T4\N{REPLACEMENT CHARACTER}", "GPU-1")


def test_without_library_driver_or_card_there_are_none() -> None:
    assert Nvidia(None).cards() == ()
    assert Nvidia(None).readings() == ()
    assert Nvidia(Library()).cards() == ()
    library = Library([H100], broken=frozenset({"nvmlInit"}))
    assert Nvidia(library).cards() == ()
    assert library.closed == 0


@pytest.mark.parametrize("call", ["Name", "UUID", "MemoryInfo"])
def test_a_card_that_has_fallen_off_the_bus_is_left_out_and_the_others_stay(call: str) -> None:
    lost = Card("NVIDIA H100", "GPU-0009", silent=frozenset({f"nvmlDeviceGet{call}"}))
    library = Library([lost, L4])
    found = [card.uuid for card in Nvidia(library).cards()]
    assert found == ["GPU-0001"]
    assert library.open_count == 0


@pytest.mark.parametrize(
    "call",
    [
        *("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName"),
        *("nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"),
    ],
)
def test_a_driver_that_fails_half_way_means_no_cards_and_is_closed(call: str) -> None:
    library = Library([L4], broken=frozenset({call}))
    assert Nvidia(library).cards() == ()
    assert (library.open_count, library.closed) == (0, 1)


@pytest.mark.parametrize(
    "call",
    [
        *("nvmlSystemGetDriverVersion", "nvmlDeviceGetPciInfo", "nvmlDeviceGetMigMode"),
        *("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage"),
        *("nvmlDeviceGetEnforcedPowerLimit", "nvmlShutdown"),
    ],
)
def test_what_a_card_does_not_say_is_left_out_and_nothing_else(call: str) -> None:
    nvidia = Nvidia(Library([L4], broken=frozenset({call})))
    assert [card.uuid for card in nvidia.cards()] == ["GPU-0001"]
    (reading,) = nvidia.readings()
    assert reading.memory_used_bytes == 6 * GIB


def test_no_machine_has_more_cards_or_slices_than_the_bounds() -> None:
    assert len(Nvidia(Library([L4] * (CARDS_MAX + 3))).cards()) == CARDS_MAX
    many = Card("A MIG x", "GPU-1", slices=(L4,) * (SLICES_MAX + 3))
    assert len(Nvidia(Library([many])).cards()) == 7, "as many as the driver says there may be"


def test_bus_addresses_are_written_as_the_kernel_does() -> None:
    assert bus_of("00000000:C1:00.0") == "0000:c1:00.0"
    assert bus_of("0000:0A:00.0") == "0000:0a:00.0"
    assert bus_of("") == ""


def test_asking_this_machine_never_fails() -> None:
    nvidia = Nvidia(nvidia_library())
    assert all(card.memory_bytes > 0 and card.uuid for card in nvidia.cards())
    assert len(nvidia.readings()) >= len(nvidia.cards())

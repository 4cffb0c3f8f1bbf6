"""Cards as the driver's library tells them. The library is not ours and not here, so it is played."""

from dataclasses import dataclass, field

import pytest

from penstock.adapters.nvidia import CARDS_MAX, Card, nvidia_cards, read_cards

GIB = 1 << 30


class DriverError(Exception):
    """What pynvml raises for everything."""


@dataclass(frozen=True)
class Memory:
    total: int


@dataclass
class Driver:
    """The part of the pynvml module that is used, with a call that may fail."""

    names: list[str | bytes] = field(default_factory=list)
    broken: str = ""
    is_open: bool = False
    closed: int = 0
    NVMLError: type[Exception] = DriverError

    def __getattr__(self, name: str) -> object:
        calls = {
            "nvmlInit": self._init,
            "nvmlShutdown": self._shutdown,
            "nvmlDeviceGetCount": lambda: len(self.names),
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: self.names[handle],
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle:04x}",
            "nvmlDeviceGetMemoryInfo": lambda _handle: Memory(80 * GIB),
        }
        if name not in calls:
            raise AttributeError(name)
        if name == self.broken:
            return self._fail
        return calls[name]

    def _fail(self, *_arguments: object) -> object:
        raise DriverError

    def _init(self) -> None:
        assert not self.is_open
        self.is_open = True

    def _shutdown(self) -> None:
        assert self.is_open
        self.is_open = False
        self.closed += 1


def test_cards_come_in_the_drivers_order_with_name_and_memory() -> None:
    driver = Driver(names=["NVIDIA H100 80GB HBM3", "NVIDIA L4"])
    assert read_cards(driver) == (
        Card("NVIDIA H100 80GB HBM3", "GPU-0000", 80 * GIB),
        Card("NVIDIA L4", "GPU-0001", 80 * GIB),
    )
    assert driver.closed == 1


def test_older_libraries_answer_in_bytes() -> None:
    (card,) = read_cards(Driver(names=[b"Tesla T4\xff"]))
    assert card.model == "Tesla T4\N{REPLACEMENT CHARACTER}"


def test_a_machine_without_a_card_has_none() -> None:
    assert read_cards(Driver()) == ()


def test_a_driver_that_does_not_start_means_no_cards_and_nothing_to_close() -> None:
    driver = Driver(names=["NVIDIA L4"], broken="nvmlInit")
    assert read_cards(driver) == ()
    assert driver.closed == 0


@pytest.mark.parametrize(
    "broken",
    [
        "nvmlDeviceGetCount",
        "nvmlDeviceGetHandleByIndex",
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetMemoryInfo",
    ],
)
def test_a_driver_that_fails_half_way_means_no_cards_and_is_closed(broken: str) -> None:
    driver = Driver(names=["NVIDIA L4"], broken=broken)
    assert read_cards(driver) == ()
    assert (driver.closed, driver.is_open) == (1, False)


def test_no_machine_has_more_cards_than_the_bound() -> None:
    driver = Driver(names=["NVIDIA L4"] * (CARDS_MAX + 3))
    assert len(read_cards(driver)) == CARDS_MAX


def test_asking_this_machine_never_fails() -> None:
    cards = nvidia_cards()
    assert all(card.memory_bytes > 0 and card.uuid for card in cards)

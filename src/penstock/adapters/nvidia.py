"""NVIDIA cards of this machine, through the driver's own library where it is installed.

`nvidia-ml-py` is optional: without it, without a driver or without a card there are simply none.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

CARDS_MAX = 64


@dataclass(frozen=True, slots=True)
class Card:
    """One card as the driver names it."""

    model: str
    uuid: str
    memory_bytes: int


def nvidia_cards() -> tuple[Card, ...]:
    """All cards; empty where there is nothing to ask. Never raises."""
    if find_spec("pynvml") is None:
        return ()
    return read_cards(import_module("pynvml"))


def read_cards(library: Any) -> tuple[Card, ...]:
    """The cards that a `pynvml` module reports; empty when its driver does not answer."""
    try:
        library.nvmlInit()
    except library.NVMLError:
        return ()
    try:
        handles = [
            library.nvmlDeviceGetHandleByIndex(index)
            for index in range(min(library.nvmlDeviceGetCount(), CARDS_MAX))
        ]
        return tuple(
            Card(
                model=_text(library.nvmlDeviceGetName(handle)),
                uuid=_text(library.nvmlDeviceGetUUID(handle)),
                memory_bytes=int(library.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for handle in handles
        )
    except library.NVMLError:
        return ()
    finally:
        library.nvmlShutdown()


def _text(value: str | bytes) -> str:
    """Older releases of the library answer in bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value

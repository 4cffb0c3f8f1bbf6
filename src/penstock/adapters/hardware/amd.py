"""AMD cards, from the kernel's files (`/sys/class/drm`), which anybody may read.

Boards for data centres say their name there; others only a number, so `rocm-smi --json` is asked
for names where it is installed. A processor's own graphics with a sliver of memory is left out.
Paths and units: the kernel's documentation of amdgpu (`gpu/amdgpu`), hwmon in microwatts and
thousandths of a degree.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from penstock.adapters.hardware.reading import Runner, number_or_none, read_text, text_or
from penstock.kit.hardware import Gpu, GpuReading, Maker

VENDOR = "0x1002"
CARDS_MAX = 64
MEMORY_BYTES_MIN = 2 << 30
"""No model worth serving fits below."""
PPM_PER_PERCENT = 10_000
MICRO_PER_MILLI = 1_000
NAMES_COMMAND = ("rocm-smi", "--showproductname", "--showbus", "--json")
NO_NAME = "N/A"


def amd_cards(sysfs: Path, run: Runner) -> tuple[Gpu, ...]:
    """All cards with enough memory. Never raises."""
    found = list(_folders(sysfs))
    names = rocm_names(run(NAMES_COMMAND)) if found else {}
    driver = text_or(read_text, str(sysfs / "module/amdgpu/version"))
    return tuple(_card(folder, names, driver) for folder in found)


def amd_readings(sysfs: Path) -> tuple[GpuReading, ...]:
    """How busy each of `amd_cards` is now. Never raises."""
    return tuple(_reading(folder) for folder in _folders(sysfs))


def rocm_names(output: str) -> Mapping[str, str]:
    """Bus address -> name, from `rocm-smi --json`; older releases write other capitals."""
    try:
        cards = msgspec.json.decode(output, type=dict[str, dict[str, object]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    names = {}
    for facts in cards.values():
        by_key = {key.lower(): str(value) for key, value in facts.items()}
        bus, name = by_key.get("pci bus", ""), by_key.get("card series", NO_NAME)
        if bus and name != NO_NAME:
            names[bus.lower()] = name
    return names


def _folders(sysfs: Path) -> Iterator[Path]:
    for card in sorted((sysfs / "class/drm").glob("card*"))[:CARDS_MAX]:
        folder = card / "device"
        is_card = re.fullmatch(r"card\d+", card.name) is not None
        if is_card and text_or(read_text, str(folder / "vendor")) == VENDOR:
            memory = number_or_none(read_text, str(folder / "mem_info_vram_total"))
            if memory is not None and memory >= MEMORY_BYTES_MIN:
                yield folder


def _card(folder: Path, names: Mapping[str, str], driver: str) -> Gpu:
    bus = _bus(folder)
    product = text_or(read_text, str(folder / "product_name"))
    number = text_or(read_text, str(folder / "device"))
    return Gpu(
        model=product or names.get(bus, "") or f"AMD {number}",
        uuid=_uuid(folder, bus),
        memory_bytes=number_or_none(read_text, str(folder / "mem_info_vram_total")) or 0,
        maker=Maker.AMD,
        board=_uuid(folder, bus),
        bus=bus,
        driver=driver,
    )


def _reading(folder: Path) -> GpuReading:
    def number(*names: str) -> int | None:
        values = (number_or_none(read_text, str(folder / name)) for name in names)
        return next((value for value in values if value is not None), None)

    sensors = next(iter(sorted((folder / "hwmon").glob("hwmon*"))), folder / "hwmon")
    hwmon = f"hwmon/{sensors.name}"
    percent = number("gpu_busy_percent")
    power = number(f"{hwmon}/power1_average", f"{hwmon}/power1_input")
    cap = number(f"{hwmon}/power1_cap")
    return GpuReading(
        uuid=_uuid(folder, _bus(folder)),
        memory_used_bytes=number("mem_info_vram_used"),
        busy_ppm=None if percent is None else percent * PPM_PER_PERCENT,
        power_mw=None if power is None else power // MICRO_PER_MILLI,
        power_max_mw=None if cap is None else cap // MICRO_PER_MILLI,
        temperature_mc=number(f"{hwmon}/temp1_input"),
    )


def _bus(folder: Path) -> str:
    found = re.search(
        r"^PCI_SLOT_NAME=(\S+)$", text_or(read_text, str(folder / "uevent")), re.MULTILINE
    )
    return found[1].lower() if found else ""


def _uuid(folder: Path, bus: str) -> str:
    """The chip's own number; boards without one are told apart by where they are plugged in."""
    own = text_or(read_text, str(folder / "unique_id"))
    return f"GPU-{own}" if own else f"PCI-{bus}"

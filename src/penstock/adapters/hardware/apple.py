"""Apple's machines, from `system_profiler -json`, which comes with macOS and needs no rights.

Processor and graphics share one memory; the card is counted with the part that macOS lends it.
"""

import re
from typing import Any

import msgspec

from penstock.adapters.hardware.reading import Runner
from penstock.kit.hardware import Gpu, Host, Maker

COMMAND = ("system_profiler", "SPHardwareDataType", "SPDisplaysDataType", "-json")
LENT_PARTS, LENT_OF = 2, 3
"""Metal's default working set is two thirds of the memory, three quarters on the largest machines."""
UNIT_BYTES = {"GB": 1 << 30, "TB": 1 << 40}
FLAGS = ("asimd",)


def apple_machine(run: Runner) -> tuple[Host, tuple[Gpu, ...]]:
    """The machine and its graphics; an empty Host where the program does not answer. Never raises."""
    try:
        report = msgspec.json.decode(run(COMMAND), type=dict[str, list[dict[str, Any]]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Host(), ()
    hardware = next(iter(report.get("SPHardwareDataType", [])), {})
    chip = str(hardware.get("chip_type") or hardware.get("cpu_type") or "")
    memory_bytes = memory_of(str(hardware.get("physical_memory", "")))
    cores = cores_of(str(hardware.get("number_processors", "")))
    machine = str(hardware.get("platform_UUID", ""))
    is_apple = chip.startswith("Apple")
    host = Host(
        model=chip,
        cores_milli=cores * 1000,
        memory_bytes=memory_bytes,
        host_cores=cores,
        host_memory_bytes=memory_bytes,
        flags=FLAGS if is_apple else (),
        board=(machine,),
    )
    if not (is_apple and machine and report.get("SPDisplaysDataType")):
        return host, ()
    card = Gpu(
        model=chip,
        uuid=machine,
        memory_bytes=memory_bytes * LENT_PARTS // LENT_OF,
        maker=Maker.APPLE,
        board=machine,
        is_unified=True,
    )
    return host, (card,)


def memory_of(text: str) -> int:
    """`16 GB` -> bytes."""
    found = re.fullmatch(r"(\d{1,6}) ([GT]B)", text)
    return int(found[1]) * UNIT_BYTES[found[2]] if found else 0


def cores_of(text: str) -> int:
    """`proc 10:8:2` -> 10: the first number is of all kinds of cores; Intel's say `8`."""
    found = re.match(r"(?:proc )?(\d{1,4})(?::|$)", text)
    return int(found[1]) if found else 0

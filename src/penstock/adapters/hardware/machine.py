"""This machine: all makers' cards and the processor, facts once and readings as often as one likes."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.hardware.amd import amd_cards, amd_readings
from penstock.adapters.hardware.apple import apple_machine
from penstock.adapters.hardware.nvidia import Nvidia, nvidia_library
from penstock.adapters.hardware.processor import read_host, read_host_load
from penstock.adapters.hardware.reading import Reader, Runner, read_text, run_program
from penstock.kit.hardware import Gpu, Host, Reading

SYSFS = Path("/sys")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to look. All methods ask the system and may take some milliseconds (on macOS a second)."""

    nvidia: Nvidia
    sysfs: Path
    read: Reader
    run: Runner
    is_apple: bool
    usable_cores: int | None

    def facts(self) -> tuple[Host, tuple[Gpu, ...]]:
        """What it is. Never raises."""
        if self.is_apple:
            return apple_machine(self.run)
        host = read_host(self.read, usable_cores=self.usable_cores)
        return host, (*self.nvidia.cards(), *amd_cards(self.sysfs, self.run))

    def reading(self) -> Reading:
        """How busy it is now. Never raises. A card of Apple's tells nobody without root."""
        gpus = (*self.nvidia.readings(), *amd_readings(self.sysfs))
        return Reading(read_host_load(self.read), gpus)


def this_machine() -> Machine:
    """The one we run on."""
    is_linux = sys.platform.startswith("linux")
    return Machine(
        nvidia=Nvidia(nvidia_library()),
        sysfs=SYSFS,
        read=read_text,
        run=run_program,
        is_apple=sys.platform == "darwin",
        usable_cores=len(os.sched_getaffinity(0)) if is_linux else None,
    )

"""What this machine is, read from the machine itself: never declared by its owner.

The kernel's files come through a reader, graphics cards through a probe, so that a test or the
simulator can be any machine. What cannot be read is left out, not guessed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

Reader = Callable[[str], str]
"""Path -> the text of that file. Raises OSError."""

CPU = "cpu"
GPU = "gpu"
ANY = "any"
FACT_CHARS_MAX = 4096

# Board facts that survive a reinstallation; several need root and are then simply absent.
BOARD_FILES = (
    "/etc/machine-id",
    "/sys/class/dmi/id/board_vendor",
    "/sys/class/dmi/id/board_name",
    "/sys/class/dmi/id/board_serial",
    "/sys/class/dmi/id/product_uuid",
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card, as its driver names it."""

    model: str
    uuid: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine. `kind` is the class that offers carry: `cpu`, or `nvidia-h100` and the like.

    `device` is the hex digest of the facts that name the physical machine: all its instances share
    it, so that one machine counts once however many miners run on it.
    """

    kind: str
    model: str
    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    device: str

    @property
    def classes(self) -> frozenset[str]:
        """The hardware needs of a manifest that this machine meets."""
        graphics = {GPU, *(gpu_class(gpu.model) for gpu in self.gpus)} if self.gpus else set[str]()
        return frozenset({"", ANY, CPU, self.kind} | graphics)


def detect(read: Reader, *, gpus: tuple[Gpu, ...] = ()) -> Hardware:
    """Read the machine. Works anywhere: on a system without these files every fact is empty or 0."""
    cpu_text = _read(read, "/proc/cpuinfo")
    model = _field(cpu_text, "model name")
    cores = len(re.findall(r"^processor\s*:", cpu_text, re.MULTILINE))
    return Hardware(
        kind=gpu_class(gpus[0].model) if gpus else CPU,
        model=gpus[0].model if gpus else model,
        cores=cores,
        memory_bytes=_memory_bytes(_read(read, "/proc/meminfo")),
        gpus=gpus,
        device=_device(read, model=model, gpus=gpus),
    )


def gpu_class(model: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> `nvidia-h100`: maker and chip, without memory size and bus.

    The maker stands in front even where the driver leaves it out.
    """
    words = re.findall(r"[a-z0-9]+", model.lower())
    plain = [word for word in words if word not in {"nvidia", "geforce", "tesla", "quadro"}]
    chip = [word for word in plain if not re.fullmatch(r"\d+gb|hbm\w*|pcie|sxm\d*|nvl|sxm", word)]
    return "-".join(["nvidia", *chip[:2]])


def _read(read: Reader, path: str) -> str:
    try:
        return read(path)
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _memory_bytes(text: str) -> int:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def _device(read: Reader, *, model: str, gpus: tuple[Gpu, ...]) -> str:
    """Facts are kept apart by a zero byte, so that no two sets of facts spell the same bytes."""
    facts = [_read(read, path).strip()[:FACT_CHARS_MAX] for path in BOARD_FILES]
    facts += [model, *sorted(gpu.uuid for gpu in gpus)]
    return sha256("\0".join(["penstock/device/v1", *facts]).encode()).hexdigest()

"""What this machine is to the market: read from the machine itself, never declared by its owner."""

import re
from dataclasses import dataclass, field
from hashlib import sha256

from penstock.kit.hardware import Gpu, Host, Maker

__all__ = ["ANY", "CPU", "GPU", "Gpu", "Hardware", "detect", "gpu_class", "gpu_device"]

CPU = "cpu"
GPU = "gpu"
ANY = "any"


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine. `kind` is the class that offers carry: `cpu`, or `nvidia-h100` and the like.

    `cores` and `memory_bytes` are what this process may use. `device` is the hex digest of the facts
    that name the physical machine: all its instances share it, so that one machine counts once however
    many miners run on it.
    """

    kind: str
    model: str
    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    device: str
    host: Host = field(default_factory=Host)

    @property
    def classes(self) -> frozenset[str]:
        """The hardware needs of a manifest that this machine meets."""
        graphics = set[str]()
        if self.gpus:
            graphics = {GPU, *(gpu_class(gpu.model, gpu.maker) for gpu in self.gpus)}
        return frozenset({"", ANY, CPU, self.kind} | graphics)


def detect(host: Host, gpus: tuple[Gpu, ...] = ()) -> Hardware:
    """The market's view of these facts. Half a core is still one; no core at all is 0."""
    return Hardware(
        kind=gpu_class(gpus[0].model, gpus[0].maker) if gpus else CPU,
        model=gpus[0].model if gpus else host.model,
        cores=-(-host.cores_milli // 1000),
        memory_bytes=host.memory_bytes,
        gpus=gpus,
        device=_device(host, gpus),
        host=host,
    )


def gpu_class(model: str, maker: Maker = Maker.NVIDIA) -> str:
    """`NVIDIA H100 80GB HBM3` -> `nvidia-h100`, `AMD Instinct MI300X` -> `amd-mi300x`: maker and chip,
    without memory size, bus and family. A slice is its own class: `nvidia-a100-mig-1g-10gb`.

    The maker stands in front even where the driver leaves it out.
    """
    chip_text, _, cut = model.partition(" MIG ")
    words = re.findall(r"[a-z0-9]+", chip_text.lower())
    plain = [word for word in words if word not in _FAMILY]
    chip = [word for word in plain if not _SIZE_OR_BUS.fullmatch(word)]
    kept = chip[:2] if maker is Maker.NVIDIA else chip[:3]
    slices = ["mig", *re.findall(r"[a-z0-9]+", cut.lower())] if cut else []
    return "-".join([maker.value, *kept, *slices])


def gpu_device(gpu: Gpu) -> str:
    """The device that offers name for a card: a digest of what names the physical card, so it is the
    same whatever machine, owner or miner it is offered by, and for all its slices.
    """
    return sha256(f"penstock/device/v1\0card\0{gpu.physical}".encode()).hexdigest()


_FAMILY = frozenset(
    {
        *("nvidia", "geforce", "tesla", "quadro"),
        *("amd", "radeon", "instinct", "oam", "graphics", "advanced", "micro", "devices", "inc"),
        "apple",
    }
)
_SIZE_OR_BUS = re.compile(r"\d+gb|hbm\w*|pcie|sxm\d*|nvl|sxm")


def _device(host: Host, gpus: tuple[Gpu, ...]) -> str:
    """Facts are kept apart by a zero byte, so that no two sets of facts spell the same bytes. Slices
    of one card are one device, and so is a machine whatever its container may use of it.
    """
    facts = [*host.board, host.model, *sorted({gpu.physical for gpu in gpus})]
    return sha256("\0".join(["penstock/device/v1", *facts]).encode()).hexdigest()

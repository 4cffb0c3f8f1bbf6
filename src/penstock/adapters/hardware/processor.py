"""The processor and memory of a Linux machine, from the kernel's files."""

import re

from penstock.adapters.hardware.cgroups import read_quota
from penstock.adapters.hardware.reading import Reader, text_or
from penstock.kit.hardware import Host, HostReading

FLAGS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
"""What llama.cpp, vLLM and onnxruntime choose their kernels by."""

# Board facts that survive a reinstallation; several need root and are then simply absent.
BOARD_FILES = (
    "/etc/machine-id",
    "/sys/class/dmi/id/board_vendor",
    "/sys/class/dmi/id/board_name",
    "/sys/class/dmi/id/board_serial",
    "/sys/class/dmi/id/product_uuid",
)
FACT_CHARS_MAX = 4_096
BUSY_FIELDS_MAX = 8
"""`/proc/stat`: user nice system idle iowait irq softirq steal; guests are in user already."""
IDLE_FIELDS = slice(3, 5)


def read_host(read: Reader, *, usable_cores: int | None = None) -> Host:
    """The machine. `usable_cores`: what the scheduler lets us run on, where the caller knows it.

    Works anywhere: on a system without these files every fact is empty or 0.
    """
    cpu_text = text_or(read, "/proc/cpuinfo")
    host_cores = len(re.findall(r"^processor\s*:", cpu_text, re.MULTILINE))
    memory_bytes = _kilobytes(text_or(read, "/proc/meminfo"), "MemTotal")
    quota = read_quota(read)
    limits = [host_cores * 1000]
    limits += [usable_cores * 1000] if usable_cores else []
    limits += [quota.cores_milli] if quota.cores_milli is not None else []
    bounds = [count for count in (memory_bytes, quota.memory_bytes) if count]
    return Host(
        model=_field(cpu_text, "model name"),
        cores_milli=min(limits),
        memory_bytes=min(bounds, default=0),
        host_cores=host_cores,
        host_memory_bytes=memory_bytes,
        flags=_flags(cpu_text),
        board=tuple(text_or(read, path)[:FACT_CHARS_MAX] for path in BOARD_FILES),
    )


def read_host_load(read: Reader) -> HostReading:
    """How busy it is now; of the whole machine, not of this container alone."""
    ticks = [int(word) for word in _first_line(text_or(read, "/proc/stat")) if word.isdigit()]
    counted = ticks[:BUSY_FIELDS_MAX]
    memory_text = text_or(read, "/proc/meminfo")
    total_bytes = _kilobytes(memory_text, "MemTotal")
    return HostReading(
        busy_ticks=sum(counted) - sum(counted[IDLE_FIELDS]),
        total_ticks=sum(counted),
        memory_used_bytes=max(0, total_bytes - _kilobytes(memory_text, "MemAvailable")),
    )


def _first_line(text: str) -> list[str]:
    """The words of the line for all cores."""
    line = text.partition("\n")[0]
    return line.split()[1:] if line.startswith("cpu ") else []


def _flags(cpu_text: str) -> tuple[str, ...]:
    """Of the first core: `flags` on x86, `Features` on ARM."""
    has = set((_field(cpu_text, "flags") or _field(cpu_text, "Features")).split())
    return tuple(flag for flag in FLAGS if flag in has)


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _kilobytes(text: str, name: str) -> int:
    """A line of `/proc/meminfo`, in bytes."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0

"""The sandbox of the process runtime: what this machine lets us have, and what a task gets of it.

Three layers, each used where it is there: **bubblewrap** (namespaces: own processes, own view of the
disk, own loopback), **Landlock** (files, TCP, signals; no root, no namespaces) and **seccomp** (system
calls). A layer that the kernel refuses is missing from `protections`, which people are shown; a layer
that is on and then fails ends the task, never the protection.
"""

import asyncio
import os
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.adapters.runtimes import cgroup, landlock, offspring, seccomp
from penstock.kit.runtime import Reach, Task, TaskFailed

SOURCE = Path(__file__).parents[3]
"""The folder that holds the package `penstock`."""
BUBBLEWRAP_DEADLINE_MS = 5_000
FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/sys")
ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone"),
    *("passwd", "group", "nsswitch.conf", "hosts", "host.conf", "resolv.conf", "gai.conf"),
    *("ssl", "ca-certificates", "pki", "mime.types", "os-release", "fonts", "locale.alias"),
    *("OpenCL", "vulkan", "nvidia", "cufile.json"),
)
"""What programs read below /etc. Not the rest: it holds secrets of other programs."""
DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))
GPU_DEVICES = ("nvidia*", "dri", "kfd", "accel")
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the system's place for it
UNSHARE = tuple(f"--unshare-{name}" for name in ("user", "pid", "ipc", "uts", "cgroup-try"))


@dataclass(frozen=True, slots=True)
class Ground:
    """What this machine has. bubblewrap: the program, "" when it is missing or does not work here."""

    landlock_abi: int
    has_seccomp: bool
    bubblewrap: str
    cgroup: Path | None


@dataclass(frozen=True, slots=True)
class Protection:
    """One thing that a task cannot do to the machine, for people to read."""

    name: str
    is_on: bool
    how: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no task may exceed. processes_max counts threads too where the kernel does."""

    processes_max: int = 1024
    file_bytes_max: int = 16 << 30
    scratch_bytes_max: int = 16 << 30


async def look(path: str) -> Ground:
    """Ask the kernel, and try bubblewrap once. path: as in PATH."""
    program = shutil.which("bwrap", path=path) or ""
    return Ground(
        landlock_abi=landlock.abi(),
        has_seccomp=seccomp.is_known_machine(),
        bubblewrap=program if program and await works(program) else "",
        cgroup=cgroup.delegated(),
    )


async def works(program: str) -> bool:
    """Some kernels and containers forbid what bubblewrap needs; only a try tells."""
    view = ("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")
    process = await asyncio.create_subprocess_exec(
        *(program, *UNSHARE, "--unshare-net", *view, "--", sys.executable, "-I", "-S", "-c", ""),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    try:
        async with asyncio.timeout(BUBBLEWRAP_DEADLINE_MS / 1000):
            return await process.wait() == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False


def protections(ground: Ground) -> tuple[Protection, ...]:
    """What a task with `Reach.NONE` is kept from on this machine, and by what."""
    wrapped, abi, calls = bool(ground.bubblewrap), ground.landlock_abi, ground.has_seccomp

    def line(name: str, **means: bool) -> Protection:
        how = ", ".join(means_name for means_name, is_on in means.items() if is_on)
        return Protection(name, bool(how), how or REMEDY)

    return (
        line("read and write other files", landlock=abi >= 1, bubblewrap=wrapped),
        line("call other machines and ports", landlock=abi >= landlock.TCP_ABI, seccomp=calls),
        line("reach Unix sockets", seccomp=calls, bubblewrap=wrapped),
        line("signal other processes", landlock=abi >= landlock.SCOPE_ABI, bubblewrap=wrapped),
        line("trace other processes", landlock=abi >= 1, seccomp=calls, bubblewrap=wrapped),
        line("use dangerous system calls", seccomp=calls),
        line("have a loopback of its own", bubblewrap=wrapped),
        line("leave processes behind", holder=sys.platform == "linux", bubblewrap=wrapped),
        line("exceed its memory with many processes", cgroup=ground.cgroup is not None),
    )


REMEDY = "off: install bubblewrap, a kernel of 6.12 or later, or use the docker runtime"


@dataclass(frozen=True, slots=True)
class Cage:
    """What the holder is told: see holder.Order and cell.Plan."""

    wrap: list[str]
    cell: dict[str, Any]
    relay: bool


def build_cage(task: Task, ground: Ground, bounds: Bounds, *, scratch: Path) -> Cage:
    """Bind `task` as tightly as this machine can. Raises TaskFailed."""
    env = environment(task, scratch)
    program = shutil.which(task.argv[0], path=env.get("PATH", ""))
    if program is None:
        remedy = "Install it, or name it by its whole path."
        raise TaskFailed(name=task.name, reason=f"no program {task.argv[0]!r}.", remedy=remedy)
    own = task.needs.reach is Reach.OWN
    if own and not ground.bubblewrap:
        raise TaskFailed(
            name=task.name,
            reason="a loopback of its own needs bubblewrap, which is not usable here.",
            remedy="Run  apt install bubblewrap  or use the docker runtime.",
        )
    network = task.needs.reach.value
    readable = (*system_paths(program), *map(str, task.readable))
    writable = (str(scratch), *map(str, task.writable))
    devices = gpu_devices() if task.needs.gpus else ()
    # Without a view of its own, the machine's shared memory would be open to it.
    shared = (SHARED_MEMORY,) if ground.bubblewrap or task.needs.gpus else ()
    rules = {
        "readable": [*readable, "/proc"],
        "writable": [*writable, *shared, *(("/tmp",) if ground.bubblewrap else ())],  # noqa: S108 - its own, a mount of the scratch folder
        "devices": [*DEVICES, *devices],
        "bind_ports": [0] if network == "none" else None,
    }
    return Cage(
        wrap=[
            *wrap_command(ground.bubblewrap, readable, writable, scratch=scratch, devices=devices),
            *(("--unshare-net",) if own else ()),
            "--",
        ]
        if ground.bubblewrap
        else [],
        cell={
            "argv": [program, *task.argv[1:]],
            "env": env,
            "holder_pid": 0,
            "rlimits": rlimits(task, ground, bounds),
            "relay": [],
            "landlock": rules if ground.landlock_abi else None,
            "seccomp": [network, bool(ground.bubblewrap)] if ground.has_seccomp else None,
        },
        relay=own,
    )


def environment(task: Task, scratch: Path) -> dict[str, str]:
    """The task's own, with a home and a place for temporary files, and the GPUs it may see."""
    env = {"HOME": str(scratch), "TMPDIR": str(scratch), **task.env}
    if task.needs.gpu_uuids:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(task.needs.gpu_uuids)
    elif not task.needs.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
    return env


def system_paths(program: str) -> tuple[str, ...]:
    """What any program of this machine reads: the system, this Python, this package."""
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix, str(SOURCE))
    etc = tuple(f"/etc/{name}" for name in ETC)
    listed = tuple(dict.fromkeys((*FOLDERS, *etc, *python)))
    alone = (program, os.path.realpath(program))
    return (
        *listed,
        *(path for path in alone if not path.startswith(tuple(f"{one}/" for one in listed))),
    )


def gpu_devices() -> tuple[str, ...]:
    return tuple(str(path) for name in GPU_DEVICES for path in sorted(Path("/dev").glob(name)))


def rlimits(task: Task, ground: Ground, bounds: Bounds) -> dict[str, int]:
    """Names in `resource` -> bound.

    Memory: RLIMIT_DATA counts what a process may write, not the model file it maps nor the address
    space that a GPU driver reserves, so that it comes close to what is used. A control group does better.
    """
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": task.needs.files_max,
        "RLIMIT_FSIZE": bounds.file_bytes_max,
        "RLIMIT_NPROC": bounds.processes_max + own_threads(),
        "RLIMIT_MEMLOCK": min(1 << 30, resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]),
    }
    if wanted["RLIMIT_MEMLOCK"] == resource.RLIM_INFINITY:
        wanted["RLIMIT_MEMLOCK"] = 1 << 30
    if task.needs.memory_bytes and not task.needs.gpus and ground.cgroup is None:
        wanted["RLIMIT_DATA"] = task.needs.memory_bytes
    return wanted


def own_threads() -> int:
    """The kernel bounds the threads of a user, so those that run already must be added."""
    mine = os.getuid()
    total = 0
    for pid, _ in offspring.parents():
        try:
            if os.stat(f"/proc/{pid}").st_uid == mine:  # noqa: PTH116 - one call for each process
                total += len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - as above
        except OSError:
            continue  # It ended while we looked.
    return total


def wrap_command(
    program: str,
    readable: tuple[str, ...],
    writable: tuple[str, ...],
    *,
    scratch: Path,
    devices: tuple[str, ...],
) -> list[str]:
    """The arguments of bubblewrap up to the `--`. Later mounts lie over earlier ones."""
    command = [program, *UNSHARE, "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for device in devices:
        command += ["--dev-bind-try", device, device]
    command += ["--bind", str(scratch), "/tmp"]  # noqa: S108 - its own, not the machine's
    for path in readable:
        if Path(path).is_symlink() and path in FOLDERS:
            command += ["--symlink", str(Path(path).readlink()), path]
        else:
            command += ["--ro-bind-try", path, path]
    for path in writable:
        command += ["--bind", path, path]
    return [*command, "--chdir", "/"]

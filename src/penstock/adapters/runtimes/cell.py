"""The cell: the last lines of our own code in a task's process, before it becomes the engine.

The holder runs `python -I -S cell.py SOURCE FD`, maybe inside bubblewrap; FD gives one JSON object,
the `Plan` below. The cell binds itself and becomes the program by exec. What the plan asks for and the
kernel refuses is fatal (status 126, the reason on stderr): a task never runs with less protection than
was promised. Standard library only, and never imported by Penstock for its own use.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TypedDict

NOT_STARTED = 126
PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
CAPABILITY_MAX = 63
CAPABILITY_VERSION_3 = 0x20080522
OOM_SCORE = "500"


class Restriction(TypedDict):
    """See landlock.Rules; bind_ports is None where TCP is not ruled by Landlock."""

    readable: list[str]
    writable: list[str]
    devices: list[str]
    bind_ports: list[int] | None


class Plan(TypedDict):
    """What one cell does.

    holder_pid: die with it; 0 where bubblewrap sees to that. rlimits: name in `resource` -> bound.
    relay: [listening fd, control fd, port or 0] for a task with a loopback of its own, else empty.
    landlock, seccomp: None where this kernel has none. seccomp: [network, unix sockets].
    """

    argv: list[str]
    env: dict[str, str]
    holder_pid: int
    rlimits: dict[str, int]
    relay: list[int]
    landlock: Restriction | None
    seccomp: tuple[str, bool] | None


def main(source: str, descriptor: str) -> None:
    with os.fdopen(int(descriptor), "rb") as pipe:
        plan: Plan = json.load(pipe)
    # -I and -S leave out every other folder; ours holds no module that hides a standard one.
    sys.path.insert(0, source)
    from penstock.adapters.runtimes import landlock, relay, seccomp

    if plan["holder_pid"]:
        tie_to_holder(plan["holder_pid"])
    if plan["relay"]:
        relay.detach(*plan["relay"])
    prefer_to_lose_memory()
    bound(plan["rlimits"])
    drop_capabilities()
    seccomp.no_new_privileges()
    if plan["landlock"] is not None:
        rules = plan["landlock"]
        ports = rules["bind_ports"]
        landlock.restrict(
            landlock.Rules(
                readable=tuple(rules["readable"]),
                writable=tuple(rules["writable"]),
                devices=tuple(rules["devices"]),
                bind_ports=None if ports is None else tuple(ports),
            )
        )
    if plan["seccomp"] is not None:
        network, unix_sockets = plan["seccomp"]
        seccomp.restrict(network=network, unix_sockets=unix_sockets)
    restore_signals()
    os.execve(plan["argv"][0], plan["argv"], plan["env"])  # noqa: S606 - no shell is the point


def tie_to_holder(holder_pid: int) -> None:
    """Die with the holder, even by kill -9."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")
    # The holder may have died before prctl: then nobody would ever send the signal.
    if os.getppid() != holder_pid:
        sys.exit(NOT_STARTED)


def prefer_to_lose_memory() -> None:
    """When the machine runs out of memory, the kernel shall end the engine, not its holder."""
    try:
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    except OSError:
        return  # A hint to the kernel; without it the holder's death takes the engine along.


def bound(rlimits: dict[str, int]) -> None:
    """Set soft and hard limits; one above the present hard limit stays at that."""
    for name, wanted in rlimits.items():
        kind: int = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))


def drop_capabilities() -> None:
    """Root of an engine is nobody special. The bounding set first: exec would fill the rest from it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(CAPABILITY_MAX + 1):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # Beyond the kernel's last one, or we have none to drop.
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def restore_signals() -> None:
    """Python ignores these two; an engine expects the defaults."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except OSError as error:
        sys.stderr.write(f"the task's cell could not be closed: {error}\n")
        sys.exit(NOT_STARTED)

"""Landlock: what a task may do with files, TCP ports and signals, set by itself before it starts.

Standard library only: the cell imports it before it becomes the engine. Landlock needs no root and no
namespaces, and cannot be undone by who is under it. What each version (ABI) adds is in landlock(7):
1 files, 2 renames between folders, 3 truncate, 4 TCP bind and connect, 5 ioctl of devices, 6 signals
and abstract Unix sockets. What it does not rule: UDP, Unix sockets with a path (see seccomp.py).
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH, RULE_NET_PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
FILES_ABI_1 = (1 << 13) - 1
REFER = 1 << 13
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ALL = 3

READ = EXECUTE | READ_FILE | READ_DIR
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

TCP_ABI = 4
SCOPE_ABI = 6


@dataclass(frozen=True, slots=True)
class Rules:
    """What is allowed; everything else that this kernel's Landlock knows is refused.

    devices: read, write and ioctl. bind_ports: TCP ports to listen on (0: any free one), None for no
    rule about TCP at all; connecting is refused whenever there is one.
    """

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    devices: tuple[str, ...]
    bind_ports: tuple[int, ...] | None


def abi() -> int:
    """The kernel's version of Landlock, 0 where there is none."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    version: int = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)
    return max(version, 0)


def handled_files(version: int) -> int:
    """Every right over files that this version knows, as bits."""
    handled = FILES_ABI_1
    handled |= REFER if version >= 2 else 0
    handled |= TRUNCATE if version >= 3 else 0
    handled |= IOCTL_DEV if version >= 5 else 0
    return handled


def restrict(rules: Rules) -> None:
    """Put this process and its children under `rules`. Needs no_new_privs or root. Raises OSError.

    Paths that are not there are left out: what does not exist needs no permission.
    """
    version = abi()
    libc = ctypes.CDLL(None, use_errno=True)
    files = handled_files(version)
    fields = [files]
    if version >= TCP_ABI:
        fields.append(0 if rules.bind_ports is None else BIND_TCP | CONNECT_TCP)
    if version >= SCOPE_ABI:
        fields.append(SCOPE_ALL)
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = checked(
        libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "ruleset"
    )
    try:
        allow_paths(ruleset, rules.readable, READ)
        allow_paths(ruleset, rules.writable, files & ~(EXECUTE | MAKE_CHAR | MAKE_BLOCK))
        allow_paths(ruleset, rules.devices, files & (READ | WRITE_FILE | IOCTL_DEV) & ~EXECUTE)
        if version >= TCP_ABI:
            for port in rules.bind_ports or ():
                rule = struct.pack("QQ", BIND_TCP, port)
                checked(libc.syscall(ADD_RULE, ruleset, RULE_NET_PORT, rule, 0), f"port {port}")
        checked(libc.syscall(RESTRICT_SELF, ruleset, 0), "restrict")
    finally:
        os.close(ruleset)


def allow_paths(ruleset: int, paths: Iterable[str], rights: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for path in paths:
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue  # Nothing is there, so there is nothing to allow.
        try:
            # The kernel refuses a rule that gives a plain file the rights of a folder.
            allowed = rights if os.path.isdir(path) else rights & OF_A_FILE  # noqa: PTH112 - started without site-packages, kept light
            rule = struct.pack("=Qi", allowed, beneath)
            checked(libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0), path)
        finally:
            os.close(beneath)


def checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock, {what}: {errno.errorcode.get(number, number)}")
    return result

"""The system call filter of a task: what no engine needs is refused (errno EPERM), not fatal.

Standard library only: the cell imports it before it becomes the engine. The filter is classic BPF, as
seccomp(2) describes it; one jump and one answer per refused call, so that no jump is long.

With `network="none"` a task gets TCP sockets only, and may not connect them. TCP Fast Open would connect
inside a send (also past Landlock's rules): refused by its flag. io_uring is refused whole, because what
it does passes no filter.
"""

import ctypes
import errno
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

RET_ALLOW = 0x7FFF0000
RET_ERRNO = 0x00050000
RET_KILL = 0x80000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
NR_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
SOCK_STREAM = 1
IPPROTO_TCP = 6
MSG_FASTOPEN = 0x20000000
NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME."""
X32_BIT = 0x40000000

ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# name: (x86_64, aarch64); None where there is no such call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "unshare": (272, 97),
    "setns": (308, 268),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
CLONE = (56, 220)
CLONE3 = (435, 435)
SOCKET = (41, 198)
CONNECT = (42, 203)
SENDTO = (44, 206)
SENDMSG = (46, 211)
SENDMMSG = (307, 269)

Step = tuple[int, int, int, int]
"""code, k, steps to skip when true, steps to skip when false."""


def is_known_machine() -> bool:
    """Whether this file has the numbers of this machine's calls."""
    return sys.platform == "linux" and platform.machine() in ARCHES


def filter_steps(machine: str, *, network: str, unix_sockets: bool) -> list[Step]:
    """The program. network: `none` (TCP sockets only), `own` or `host` (any of the usual)."""
    column = list(ARCHES).index(machine)
    steps: list[Step] = [
        (LOAD, ARCH_AT, 0, 0),
        (EQUAL, ARCHES[machine], 1, 0),
        (RETURN, RET_KILL, 0, 0),
        (LOAD, NR_AT, 0, 0),
    ]
    if machine == "x86_64":
        # Calls of the x32 kind have other numbers, which the list below does not know.
        steps += [(AT_LEAST, X32_BIT, 0, 1), refuse(errno.ENOSYS)]
    for numbers in REFUSED.values():
        refused = numbers[column]
        if refused is not None:
            steps += [(EQUAL, refused, 0, 1), refuse(errno.EPERM)]
    # glibc falls back to clone, whose flags a filter can read.
    steps += [(EQUAL, CLONE3[column], 0, 1), refuse(errno.ENOSYS)]
    steps += when(CLONE[column], any_bit(0, NEW_NAMESPACES, errno.EPERM))
    steps += when(SOCKET[column], socket_steps(network, unix_sockets=unix_sockets))
    if network == "none":
        steps += [(EQUAL, CONNECT[column], 0, 1), refuse(errno.EACCES)]
        for number, flags in ((SENDTO, 3), (SENDMSG, 2), (SENDMMSG, 3)):
            steps += when(number[column], any_bit(flags, MSG_FASTOPEN, errno.EPERM))
    return [*steps, (RETURN, RET_ALLOW, 0, 0)]


def socket_steps(network: str, *, unix_sockets: bool) -> list[Step]:
    """Which sockets may be made. Each family is one test; what passes none is refused."""
    families = [AF_UNIX] if unix_sockets else []
    if network == "none":
        internet: list[Step] = [
            argument(1),
            (AND, 0xF, 0, 0),
            (EQUAL, SOCK_STREAM, 0, 3),
            argument(2),
            (EQUAL, 0, 2, 0),
            (EQUAL, IPPROTO_TCP, 1, 0),
            refuse(errno.EACCES),
            (RETURN, RET_ALLOW, 0, 0),
        ]
    else:
        families += [AF_INET, AF_INET6, AF_NETLINK]
        internet = []
    steps: list[Step] = [argument(0)]
    for family in families:
        steps += [(EQUAL, family, 0, 1), (RETURN, RET_ALLOW, 0, 0)]
    if internet:
        steps += [(EQUAL, AF_INET, 1, 0), (EQUAL, AF_INET6, 0, len(internet)), *internet]
    return [*steps, refuse(errno.EAFNOSUPPORT)]


def when(number: int, steps: list[Step]) -> list[Step]:
    """`steps` for this call only; afterwards the number is loaded again for the next test."""
    return [(EQUAL, number, 0, len(steps)), *steps, (LOAD, NR_AT, 0, 0)]


def any_bit(index: int, bits: int, code: int) -> list[Step]:
    return [argument(index), (ANY_BIT, bits, 0, 1), refuse(code)]


def argument(index: int) -> Step:
    """The low half of an argument; both machines are little-endian."""
    return (LOAD, ARGUMENTS_AT + 8 * index, 0, 0)


def refuse(code: int) -> Step:
    return (RETURN, RET_ERRNO | code, 0, 0)


def restrict(*, network: str, unix_sockets: bool) -> None:
    """Filter this process and its children from now on. Raises OSError."""
    steps = filter_steps(platform.machine(), network=network, unix_sockets=unix_sockets)
    code = b"".join(struct.pack("HBBI", step[0], step[2], step[3], step[1]) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges()
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {errno.errorcode.get(number, number)}")


def no_new_privileges() -> None:
    """No program started from here gains rights by its file. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no_new_privs: {errno.errorcode.get(number, number)}")

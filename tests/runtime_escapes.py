"""Tries to get out: `python -I -S runtime_escapes.py`. Standard library only.

Reads one JSON object (the targets) from stdin and writes one JSON line `escapes: {attempt: outcome}` to
stdout, where the outcome is `done` or the name of what stopped it. Run without a sandbox it shows that
each attempt would work.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

TARGET = json.loads(sys.stdin.read())
LIBC = ctypes.CDLL(None, use_errno=True)
MSG_FASTOPEN = 0x20000000
PTRACE_SEIZE = 0x4206
CLONE_NEWUSER = 0x10000000
IO_URING_SETUP = 425


def call(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def read_secret() -> None:
    Path(TARGET["secret"]).read_text()


def read_secret_by_link() -> None:
    link = Path(os.environ["TMPDIR"], "link")
    link.symlink_to(TARGET["secret"])
    try:
        link.read_text()
    finally:
        link.unlink()


def list_home() -> None:
    list(Path(TARGET["home"]).iterdir())


def write_outside() -> None:
    Path(TARGET["home"], "planted").write_text("x")


def write_readable() -> None:
    Path(TARGET["readable"]).write_text("x")


def read_shadow() -> None:
    Path("/etc/shadow").read_bytes()


def connect_agent() -> None:
    socket.create_connection(("127.0.0.1", TARGET["port"]), timeout=5).close()


def fast_open_agent() -> None:
    with socket.socket() as one:
        one.settimeout(5)
        one.sendto(b"x", MSG_FASTOPEN, ("127.0.0.1", TARGET["port"]))


def send_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("127.0.0.1", TARGET["udp_port"]))


def connect_internet() -> None:
    """An address of the documentation block: outside there is no answer, inside a refusal at once."""
    with socket.socket() as one:
        one.setblocking(False)
        try:
            one.connect(("192.0.2.1", 80))
        except BlockingIOError:
            return


def connect_unix() -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(TARGET["unix"])


def connect_abstract() -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("\0" + TARGET["abstract"])


def signal_agent() -> None:
    os.kill(TARGET["pid"], 0)


def trace_agent() -> None:
    call(LIBC.ptrace(PTRACE_SEIZE, TARGET["pid"], None, None))


def read_agents_environment() -> None:
    Path(f"/proc/{TARGET['pid']}/environ").read_bytes()


def new_user_namespace() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0 if LIBC.unshare(CLONE_NEWUSER) == 0 else 1)
    if os.waitpid(child, 0)[1] != 0:
        raise PermissionError


def io_uring() -> None:
    parameters = ctypes.create_string_buffer(120)
    result = LIBC.syscall(IO_URING_SETUP, 1, parameters)
    call(result)
    os.close(result)


def keep_capabilities() -> None:
    status = Path("/proc/self/status").read_text()
    if "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status:
        raise PermissionError


def dump_core() -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        raise PermissionError


def fill_disk() -> None:
    """A hole: the bound is on the file's length, so that the test needs no space itself."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = Path(os.environ["TMPDIR"], "big")
    with path.open("wb") as big:
        big.truncate(TARGET["too_many_bytes"])
    path.unlink()


ATTEMPTS: tuple[Callable[[], None], ...] = (
    *(read_secret, read_secret_by_link, list_home, write_outside, write_readable, read_shadow),
    *(connect_agent, fast_open_agent, send_datagram, connect_internet, connect_unix),
    *(connect_abstract, signal_agent, trace_agent, read_agents_environment),
    *(new_user_namespace, io_uring, keep_capabilities, dump_core, fill_disk),
)


def allowed_things() -> None:
    """What every engine does: read its model, write where it may, listen, start a thread and a process."""
    Path(TARGET["readable"]).read_text()
    Path(TARGET["writable"], "made").write_text("x")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0 if TARGET["any_port"] else int(sys.argv[1])))
        one.listen()
    Path(os.environ["TMPDIR"], "scratch").write_text("x")
    assert os.waitstatus_to_exitcode(os.system("exit 3")) == 3
    Path("/proc/self/status").read_text()
    Path("/dev/null").write_text("x")
    os.urandom(1)


def loopback_of_its_own() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        socket.create_connection(one.getsockname(), timeout=5).close()


def outcome(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except (OSError, AssertionError) as error:
        return type(error).__name__
    return "done"


def main() -> None:
    found = {one.__name__: outcome(one) for one in ATTEMPTS}
    found["allowed_things"] = outcome(allowed_things)
    found["loopback_of_its_own"] = outcome(loopback_of_its_own)
    print("escapes: " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

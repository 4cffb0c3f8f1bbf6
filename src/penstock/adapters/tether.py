"""The tether: a few milliseconds of Python between our process and the program it starts.

`ChildProcess` runs `python -I -S tether.py PARENT SIGNAL UID GID -- program args...`. The tether
drops to an unprivileged uid, asks Linux to signal the program when the parent dies (even by
kill -9), and becomes the program by exec, so it costs about 20 ms once and no memory after that.

Why not `preexec_fn`: it runs Python between fork and exec, which can deadlock in a process with
threads, and uvloop offers no uid. Why not `setpriv`: slim containers lack it. Standard library
only, and never imported by Penstock itself: the interpreter starts it as a script.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
NOT_STARTED = 127


def tie_to_parent(parent_pid: int, signal_number: int) -> None:
    """Die with the parent. Linux only; elsewhere the supervisor's own shutdown must do."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        error_number = ctypes.get_errno()
        raise OSError(error_number, os.strerror(error_number))
    # The parent may have died before prctl: then nobody would ever send the signal.
    if os.getppid() != parent_pid:
        sys.exit(NOT_STARTED)


def main(arguments: list[str]) -> None:
    parent_pid, signal_number, uid, gid, separator, *argv = arguments
    assert separator == "--"
    if int(uid) >= 0:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    # After the uid change: Linux forgets the death signal whenever credentials change.
    tie_to_parent(int(parent_pid), int(signal_number))
    os.execv(argv[0], argv)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.stderr.write(f"cannot start {sys.argv[6:7]}: {error}\n")
        sys.exit(NOT_STARTED)

"""The holder: the parent of one task, and nobody's child, so that a task outlives its agent.

`python -I -S holder.py SOURCE` reads one JSON object, the `Order` below, from stdin; leaves its parent
by a double fork; starts the task's command and stays until it ends. It says one JSON line on stdout,
`{"address": ..., "error": ...}`, once the address is known or never will be. In the task's folder:

| file | what |
|---|---|
| lock | flock'ed (the agent locked it, we inherited it) for as long as the holder lives |
| alive | a FIFO the holder holds: who reads it gets its end exactly when the holder has ended |
| control | a FIFO the holder reads: `t` ends the task with grace, `k` at once |
| task.json, exit.json | what runs, how it ended; written whole or not at all |
| log, log.1 | what the task wrote, bounded |

No process number is ever trusted for liveness, and nothing here compares wall clocks. A full disk loses
log lines and exit.json, not the task. Standard library only; each tick is a few system calls.
"""

import base64
import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
from penstock.adapters.runtimes import cgroup, offspring
from penstock.adapters.runtimes.bounded_log import BoundedLog
from penstock.adapters.runtimes.orphans import Beat, now_s

TICK_S = 1.0
PIECE_BYTES_MAX = 1 << 16
ANNOUNCE_BYTES_MAX = 1 << 16
REAP_DEADLINE_S = 10.0
SCRATCH_EVERY_TICKS = 5
SCRATCH_FILES_MAX = 50_000
ADDRESS = re.compile(r"http://127\.0\.0\.1:([1-9][0-9]{0,4})/?")
PR_SET_CHILD_SUBREAPER = 36


class Order(TypedDict):
    """What the agent asks for. `cell` is a cell.Plan whose argv may hold {port}.

    wrap: the command to put before the cell (bubblewrap), empty for none. cgroup: the task's own, or "".
    relay: the task has a network
    of its own. beat: the file whose change says that an agent cares. scratch: the task's private folder.
    """

    task: dict[str, Any]
    folder: str
    stdin: str
    cell: dict[str, Any]
    wrap: list[str]
    cgroup: str
    relay: bool
    announces: bool
    stop_ms: int
    orphan_ms: int
    beat: str
    scratch: str
    scratch_bytes_max: int
    processes_max: int
    log_bytes_max: int


class Holder:
    """One task from start to end."""

    def __init__(self, order: Order, source: str) -> None:
        self._order = order
        self._source = source
        self._folder = Path(order["folder"])
        self._log = BoundedLog(self._folder / "log", order["log_bytes_max"])
        self._events = selectors.DefaultSelector()
        self._pid = 0
        self._status: int | None = None
        self._reason = ""
        self._kill_at_s = 0.0
        self._stdin = memoryview(base64.b64decode(order["stdin"]))
        self._announced = b""
        self._is_told = False
        self._port = 0
        self._relay_control = -1
        self._beat = Beat(order["beat"], order["orphan_ms"])
        self._ticks = 0

    def run(self) -> None:
        """Start, hold, end, report. Raises OSError when it cannot even start."""
        self._open()
        pipe, plan = self._start()
        try:
            self._watch(pipe, plan)
            self._hold()
        finally:
            self._end()

    def _open(self) -> None:
        """The fifos and the alarm: opened for both ways, so that they never end on our side."""
        for name in ("alive", "control"):
            os.mkfifo(self._folder / name, 0o600)
        self._alive = os.open(self._folder / "alive", os.O_RDWR | os.O_NONBLOCK)
        self._control = os.open(self._folder / "control", os.O_RDWR | os.O_NONBLOCK)
        self._wakeup, alarm = os.pipe()
        for end in (self._wakeup, alarm):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        offspring.prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._events.register(self._control, selectors.EVENT_READ)
        self._events.register(self._wakeup, selectors.EVENT_READ)

    def _start(self) -> tuple[int, bytes]:
        """Start the cell, which waits for its plan at the pipe."""
        order = self._order
        plan = dict(order["cell"])
        inherited = []
        if order["relay"] or not order["announces"]:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]
            if order["relay"]:
                listener.listen(128)
                inner, self._relay_control = os.pipe()
                inherited += [listener.detach(), inner]
                plan["relay"] = [*inherited, 0 if order["announces"] else self._port]
            else:
                listener.close()
        plan["argv"] = [word.replace("{port}", str(self._port)) for word in plan["argv"]]
        ports = plan["landlock"] and plan["landlock"]["bind_ports"]
        if ports is not None and self._port:
            plan["landlock"] = {**plan["landlock"], "bind_ports": [self._port]}
        plan["holder_pid"] = 0 if order["wrap"] else os.getpid()
        there, here = os.pipe()
        cell = f"{self._source}/penstock/adapters/runtimes/cell.py"
        with cgroup.inside(order["cgroup"]):
            self._process = subprocess.Popen(
                [*order["wrap"], sys.executable, "-I", "-S", cell, self._source, str(there)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(there, *inherited),
                start_new_session=True,
                cwd="/",
                env={},
                bufsize=0,
            )
        self._pid = self._process.pid
        for descriptor in (there, *inherited):
            os.close(descriptor)
        return here, json.dumps(plan).encode()

    def _watch(self, pipe: int, plan: bytes) -> None:
        """Let it begin, and hear what it says."""
        with contextlib.suppress(BrokenPipeError), os.fdopen(pipe, "wb") as cell:
            cell.write(plan)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._events.register(stream, selectors.EVENT_READ)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._events.register(self._process.stdin, selectors.EVENT_WRITE)
        if not self._order["announces"]:
            self._serving(f"http://127.0.0.1:{self._port}")

    def _hold(self) -> None:
        """Until the task's first process has ended and been collected."""
        next_tick_s = now_s() + TICK_S
        while self._status is None:
            wait_s = max(0.0, next_tick_s - now_s())
            for key, _ in self._events.select(wait_s):
                self._handle(key.fileobj)
            self._reap()
            if self._kill_at_s and now_s() >= self._kill_at_s:
                self._kill()
            if now_s() >= next_tick_s:
                next_tick_s = now_s() + TICK_S
                self._tick()

    def _handle(self, source: object) -> None:
        process = self._process
        if source == self._control:
            commands = os.read(self._control, PIECE_BYTES_MAX)
            self._stop("it was stopped", at_once=b"k" in commands)
        elif source == self._wakeup:
            if {signal.SIGTERM, signal.SIGINT} & set(os.read(self._wakeup, PIECE_BYTES_MAX)):
                self._stop("its holder was asked to end", at_once=False)
        elif source is process.stdin:
            self._feed()
        elif source is process.stdout:
            self._read(process.stdout)
        elif source is process.stderr:
            self._read(process.stderr)

    def _feed(self) -> None:
        """Write what is left of stdin, then close it."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            if self._stdin:
                self._stdin = self._stdin[os.write(pipe.fileno(), self._stdin) :]
        except BrokenPipeError:
            self._stdin = memoryview(b"")  # It does not want to know.
        if not self._stdin:
            self._events.unregister(pipe)
            pipe.close()

    def _read(self, stream: Any) -> bytes:
        try:
            data = os.read(stream.fileno(), PIECE_BYTES_MAX)
        except BlockingIOError:
            return b""
        if not data:
            self._events.unregister(stream)
            stream.close()
            return b""
        self._log.write(data)
        if stream is self._process.stdout and not self._is_told:
            self._listen(data)
        return data

    def _listen(self, data: bytes) -> None:
        """Look for the announcement among the first lines of stdout."""
        *lines, self._announced = (self._announced + data).split(b"\n")
        for line in lines:
            if line.lstrip().startswith(b"{") and not self._is_told:
                self._announce(line)
        if len(self._announced) > ANNOUNCE_BYTES_MAX:
            self._announced = b""

    def _announce(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return  # Some other line that starts with a brace.
        if not isinstance(said, dict) or not {"address", "error"} & set(said):
            return
        address = str(said.get("address") or "")
        match = ADDRESS.fullmatch(address)
        if said.get("error") or match is None or int(match[1]) > 65535:
            what = str(said.get("error") or f"it announced {address[:100]!r}, no port of this host")
            self._stop(what[:1000], at_once=True)
        elif self._order["relay"]:
            os.write(self._relay_control, match[1].encode() + b"\n")
            self._serving(f"http://127.0.0.1:{self._port}")
        else:
            self._serving(address.rstrip("/"))

    def _serving(self, address: str) -> None:
        """Write it down before saying it: who was told must find it. A full disk ends the task."""
        self._order["task"]["address"] = address
        try:
            self._write("task.json", {**self._order["task"], "holder_pid": os.getpid()})
        except OSError as error:
            self._stop(f"its state cannot be written: {error.strerror}", at_once=True)
            return
        self._tell(address, "")

    def _tell(self, address: str, error: str) -> None:
        """The one line for the agent, if it still listens."""
        if self._is_told:
            return
        self._is_told = True
        try:
            os.write(1, json.dumps({"address": address, "error": error}).encode() + b"\n")
        except OSError:
            return  # The agent has gone; the next one reads task.json.
        finally:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 1)
            os.close(nothing)

    def _tick(self) -> None:
        """The three rules that no event tells: orphaned, too many processes, too much on disk."""
        order = self._order
        self._ticks += 1
        if self._beat.is_over():
            self._stop("no agent has asked for it any more", at_once=False)
        if offspring.count(os.getpid(), order["processes_max"]) > order["processes_max"]:
            self._stop(f"it started more than {order['processes_max']} processes", at_once=True)
        if self._ticks % SCRATCH_EVERY_TICKS == 0:
            used = offspring.folder_bytes(order["scratch"], SCRATCH_FILES_MAX)
            if used > order["scratch_bytes_max"]:
                self._stop(f"its private folder grew to {used} bytes", at_once=True)

    def _stop(self, reason: str, *, at_once: bool) -> None:
        self._reason = self._reason or reason
        if at_once:
            self._kill()
        elif not self._kill_at_s:
            self._kill_at_s = now_s() + self._order["stop_ms"] / 1000
            spared = 2 if self._order["wrap"] else 0
            for pid in offspring.below(os.getpid(), skip_levels=spared):
                offspring.send(pid, signal.SIGTERM)

    def _kill(self) -> None:
        """Everything below us. Those it leaves behind are ours, and the next round gets them."""
        cgroup.kill(self._order["cgroup"])
        for pid in offspring.below(os.getpid()):
            offspring.send(pid, signal.SIGKILL)

    def _reap(self) -> bool:
        """Collect who has ended. False when there is nobody left to wait for."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == self._pid:
                self._status = self._process.returncode = os.waitstatus_to_exitcode(status)
            if pid == 0:
                return True

    def _end(self) -> None:
        """Kill what is left, keep its last words, say how it ended."""
        deadline_s = now_s() + REAP_DEADLINE_S
        while self._reap() and now_s() < deadline_s:
            self._kill()
            time.sleep(0.005)
        for stream in (self._process.stdout, self._process.stderr):
            while stream is not None and not stream.closed and self._read(stream):
                pass
        status = self._status
        if self._order["wrap"] and status is not None and status > 128:
            status = 128 - status  # bubblewrap says a signal as a shell does
        self._tell("", self._reason or f"it ended {ending(status)} before it had an address")
        reason = self._reason or f"it ended {ending(status)}"
        try:
            self._write("exit.json", {"status": status, "reason": reason})
        except OSError:
            return  # The disk is full; who waits learns of the end by the lock.
        finally:
            cgroup.remove(self._order["cgroup"])

    def _write(self, name: str, value: object) -> None:
        """Whole or not at all. Raises OSError."""
        temporary = self._folder / f".{name}.tmp"
        temporary.write_text(json.dumps(value))
        temporary.replace(self._folder / name)


def ending(status: int | None) -> str:
    if status is None:
        return "for no known reason"
    if status >= 0:
        return f"with status {status}"
    hint = ", often the kernel's for lack of memory" if status == -signal.SIGKILL else ""
    return f"by signal {signal.Signals(-status).name}{hint}"


def main() -> None:
    order: Order = json.load(sys.stdin)
    os.umask(0o077)
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    log = os.open(f"{order['folder']}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 2)
    try:
        Holder(order, sys.argv[1]).run()
    except OSError as error:
        os.write(1, json.dumps({"address": "", "error": f"no holder: {error}"}).encode() + b"\n")
        raise


if __name__ == "__main__":
    main()

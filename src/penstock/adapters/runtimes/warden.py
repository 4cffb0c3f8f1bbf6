"""The warden of a home's containers: removes them when no agent has cared for too long.

A container's labels cannot change and its main process is the engine, so neither can carry the beat.
This is a process of its own instead: `python -I -S warden.py SOURCE HOME SOCKET LABEL ORPHAN_MS`. It
leaves its parent, holds HOME/warden.lock (there is one), and ends when the home has no container left
and no agent. Standard library only.
"""

import contextlib
import fcntl
import http.client
import json
import os
import socket
import sys
import time
from urllib.parse import quote

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
from penstock.adapters.runtimes.orphans import Beat

TICK_S = 1.0
ANSWER_S = 30.0
TRIES_MAX = 3600
API = "/v1.40"


class Service(http.client.HTTPConnection):
    """HTTP over the container service's Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str) -> bytes:
        """The body of the answer. Raises OSError, http.client.HTTPException."""
        try:
            self.request(method, API + path)
            return self.getresponse().read()
        finally:
            self.close()


def remove_all(service: Service, label: str) -> int:
    """Kill and remove every container with this label; how many there were. Raises as `ask`."""
    filters = quote(json.dumps({"label": [label]}))
    found = json.loads(service.ask("GET", f"/containers/json?all=1&filters={filters}"))
    for container in found:
        service.ask("DELETE", f"/containers/{container['Id']}?force=1")
    return len(found)


def watch(home: str, service: Service, label: str, *, orphan_ms: int) -> None:
    """Until nobody has beaten for so long, twice in a row, and all containers are gone."""
    beat = Beat(f"{home}/beat", orphan_ms)
    while not beat.is_over():
        time.sleep(TICK_S)
    # While the service is down nothing can be removed: try again, for an hour.
    for _ in range(TRIES_MAX):
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            if remove_all(service, label) == 0:
                return
        time.sleep(TICK_S)


def main(arguments: list[str]) -> None:
    _source, home, path, label, orphan_ms = arguments
    if os.fork():
        os._exit(0)
    lock = os.open(f"{home}/warden.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # There is one.
    watch(home, Service(path), label, orphan_ms=int(orphan_ms))


if __name__ == "__main__":
    main(sys.argv[1:])

"""A real Ray cluster of two nodes on this machine, for tests.

`python -m tests.ray_nodes COMMAND...` runs a command with PENSTOCK_TEST_RAY set to its address.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.adapters.runtimes import offspring
from penstock.kit.environment import inherited

STORE_BYTES = 80 << 20


@contextmanager
def two_nodes(*, cpus: int = 4) -> Iterator[str]:
    """Start both, give the cluster's address, stop both. cpus: of each node, by name only."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Not pytest's folder: Ray makes Unix sockets in it, whose paths are short.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    nodes = []
    try:
        nodes.append(_start(folder, f"--port={port}", "--head", cpus=cpus))
        _until_started(nodes[0])
        nodes.append(_start(folder, f"--address=127.0.0.1:{port}", cpus=cpus))
        _until_started(nodes[1])
        yield f"127.0.0.1:{port}"
    finally:
        for node in reversed(nodes):
            _end(node)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, *where: str, cpus: int) -> subprocess.Popen[bytes]:
    # --temp-dir is for the head to say; the other node is told it.
    head = ("--include-dashboard=false", f"--temp-dir={folder}") if "--head" in where else ()
    return subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--block", *where, *head),
            *(f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}"),
            *("--disable-usage-stats", "--memory=1000000000"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**inherited(["PATH", "HOME"]), "PYTHONUNBUFFERED": "1"},
    )


def _until_started(node: subprocess.Popen[bytes]) -> None:
    """Its words, when it ends instead."""
    assert node.stdout is not None
    said = b""
    for line in node.stdout:
        said += line
        if b"Ray runtime started" in line:
            return
    raise AssertionError(said.decode(errors="replace"))


def _end(node: subprocess.Popen[bytes]) -> None:
    """Kill it with all that it started (`ray stop` would stop every cluster of this machine)."""
    # Its parts are found through it, so it is stopped first and ended last.
    node.send_signal(signal.SIGSTOP)
    for pid in offspring.below(node.pid):
        offspring.send(pid, signal.SIGKILL)
    node.kill()
    node.communicate()


if __name__ == "__main__":
    with two_nodes() as where:
        env = {**os.environ, "PENSTOCK_TEST_RAY": where}
        status = subprocess.run(sys.argv[1:], check=False, env=env).returncode
    sys.exit(status)

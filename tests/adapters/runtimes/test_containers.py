"""The container runtime's own parts: the form, the addresses, the announcement, the warden; and what a
real container may not do, where a service answers (see runtime_grounds.docker_socket).
"""

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import pytest
from tests.runtime_grounds import DEADLINE_MS, docker_ground, make_task

from penstock.adapters.runtimes import warden
from penstock.adapters.runtimes.announcement import Announcement, announced
from penstock.adapters.runtimes.container_form import ContainerBounds, container_form
from penstock.adapters.runtimes.containers import ContainerConfig, ContainerRuntime, address_of
from penstock.adapters.runtimes.errors import NoContainers
from penstock.kit.clock import SystemClock
from penstock.kit.runtime import ORPHAN_MS, Needs, Reach, Task, TaskFailed

BOUNDS = ContainerBounds()


def form_of(task: Task, network: str = "closed") -> dict[str, Any]:
    return container_form(task, {"a": "b"}, network=network, bounds=BOUNDS)


def make_container_task(**fields: Any) -> Task:
    return make_task("serve", image="engine@sha256:00", **fields)


def test_every_container_is_bound() -> None:
    form = form_of(make_container_task())
    assert form["cap_drop"] == ["ALL"]
    assert form["security_opt"] == ["no-new-privileges:true"]
    assert form["read_only"] is True
    assert form["pids_limit"] == BOUNDS.processes_max
    assert form["network"] == "closed"
    assert "ports" not in form
    assert "privileged" not in form
    assert "device_requests" not in form
    assert {one["Name"] for one in form["ulimits"]} == {"nofile", "core"}


def test_what_a_task_needs_is_asked_for() -> None:
    needs = Needs(cpu_milli=1500, memory_bytes=1 << 30, gpus=2, reach=Reach.HOST)
    paths = {"readable": (Path("/models"),), "writable": (Path("/cache"),)}
    form = form_of(make_container_task(needs=needs, **paths), network="")
    assert form["nano_cpus"] == 1_500_000_000
    assert form["mem_limit"] == form["memswap_limit"] == 1 << 30
    assert form["device_requests"][0]["Count"] == 2
    assert form["ports"] == {"8000/tcp": ("127.0.0.1", None)}
    assert form["volumes"] == {
        "/models": {"bind": "/models", "mode": "ro"},
        "/cache": {"bind": "/cache", "mode": "rw"},
    }
    assert form["command"][-1] == "8000"


def test_named_gpus_are_asked_for_by_name() -> None:
    form = form_of(make_container_task(needs=Needs(gpus=1, gpu_uuids=("GPU-1",))))
    assert form["device_requests"][0]["DeviceIDs"] == ["GPU-1"]


def test_a_task_without_an_image_is_refused() -> None:
    with pytest.raises(TaskFailed, match="no container image"):
        form_of(make_task("serve"))


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ({"Ports": {"8000/tcp": [{"HostPort": "4321"}]}}, "http://127.0.0.1:4321"),
        ({"Ports": {}, "Networks": {"n": {"IPAddress": "172.1.2.3"}}}, "http://172.1.2.3:8000"),
        ({"Ports": {"8000/tcp": None}, "Networks": {"n": {"IPAddress": ""}}}, ""),
        ({}, ""),
    ],
)
def test_the_address_is_the_published_port_or_its_own(
    network: dict[str, Any], address: str
) -> None:
    assert address_of(network, 8000) == address


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"", None),
        (b'{"address": "http://127.0.0.1:80"}', None),
        (b'noise\n{"other": 1}\n{broken\n', None),
        (b'{"address": "http://127.0.0.1:80"}\n', Announcement(80, "")),
        (b'x\n{"address": "http://0.0.0.0:8080/", "error": ""}\n', Announcement(8080, "")),
        (b'{"address": "", "error": "no model"}\n', Announcement(0, "no model")),
        (b"[" * 100_000 + b"\n", None),
        (b'{"a":' * 10_000 + b"\n", None),
    ],
)
def test_the_announcement_is_the_first_line_that_is_one(
    said: bytes, found: Announcement | None
) -> None:
    assert announced(said) == found


@pytest.mark.parametrize("address", ["http://h:99999", "http://h:0", "ftp://h:1", "http://h:1/x"])
def test_a_strange_address_is_an_error(address: str) -> None:
    said = announced(json.dumps({"address": address}).encode() + b"\n")
    assert said is not None
    assert said.port == 0
    assert address in said.error


async def test_no_service_is_told_with_the_remedy(tmp_path: Path) -> None:
    pytest.importorskip("docker")
    config = ContainerConfig(tmp_path / "no.sock")
    with pytest.raises(NoContainers, match="process runtime"):
        await ContainerRuntime.open(tmp_path / "home", config, clock=SystemClock())


class Containers:
    """A container service that has these containers and can list and remove."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.asked: list[str] = []


@pytest.fixture
def service() -> Iterator[tuple[str, Containers]]:
    containers = Containers(["one", "two"])

    class Handler(BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            containers.asked.append(unquote(self.path))
            self.answer(200, json.dumps([{"Id": name} for name in containers.names]).encode())

        def do_DELETE(self) -> None:
            containers.names.remove(self.path.split("/")[3].partition("?")[0])
            self.answer(204, b"")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with TemporaryDirectory(prefix="rt") as folder:
        path = f"{folder}/service.sock"
        with ThreadingUnixStreamServer(path, Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield path, containers
            server.shutdown()
            thread.join()


def test_the_warden_removes_what_nobody_cares_for(
    service: tuple[str, Containers], tmp_path: Path
) -> None:
    path, containers = service
    (tmp_path / "beat").touch()
    warden.watch(str(tmp_path), warden.Service(path), "home=1", orphan_ms=100)
    assert containers.names == []
    assert '{"label": ["home=1"]}' in containers.asked[0]


def test_the_warden_needs_no_beat_file_to_end(
    service: tuple[str, Containers], tmp_path: Path
) -> None:
    path, containers = service
    warden.watch(str(tmp_path / "gone"), warden.Service(path), "home=1", orphan_ms=100)
    assert containers.names == []


async def test_a_real_container_is_closed(tmp_path: Path) -> None:
    """No way out, no capabilities, a root that cannot be written."""
    attempts = (
        "import json, os, socket\n"
        "found = {}\n"
        "def attempt(name, work):\n"
        "    try:\n"
        "        work()\n"
        "        found[name] = 'done'\n"
        "    except OSError as error:\n"
        "        found[name] = type(error).__name__\n"
        "attempt('root', lambda: open('/planted', 'w'))\n"
        "attempt('scratch', lambda: open('/tmp/x', 'w').close())\n"
        "attempt('internet', lambda: socket.create_connection(('192.0.2.1', 80), timeout=3))\n"
        "attempt('own', lambda: os.chown('/tmp/x', 1, 1))\n"
        "status = open('/proc/self/status').read()\n"
        "found['caps'] = status.split('CapEff:')[1].split()[0]\n"
        "found['nnp'] = status.split('NoNewPrivs:')[1].split()[0]\n"
        "print('found ' + json.dumps(found), flush=True)\n"
    )
    async with docker_ground(tmp_path, ORPHAN_MS) as ground:
        runtime = await ground.agent()
        argv = (os.path.realpath(sys.executable), "-I", "-S", "-c", attempts, "{port}")
        await runtime.launch(ground.task("serve", argv=argv), deadline_ms=DEADLINE_MS)
        await runtime.wait("engine-1")
        log = await runtime.logs("engine-1", bytes_max=4096)
    found = json.loads(log.partition("found ")[2])
    assert found["root"] == "OSError"
    assert found["scratch"] == "done"
    assert found["internet"] != "done"
    assert found["own"] == "PermissionError"
    assert found["caps"] == "0000000000000000"
    assert found["nnp"] == "1"


def test_the_warden_speaks_to_a_socket_only(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        warden.Service(str(tmp_path / "no.sock")).ask("GET", "/version")

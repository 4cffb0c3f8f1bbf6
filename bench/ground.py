"""What the benches stand on: processes started and ended, free ports, a market in a fresh home."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cpu import children, command_line
from bench.figures import ROOT

HOST = "127.0.0.1"
DEADLINE_S = 120
STOP_DEADLINE_S = 20
CHECK_EVERY_S = 0.05
# The limits of one API key are not what is measured.
WORK = {"work_per_s": 1_000_000_000, "work_max": 1_000_000_000_000}
OVERRIDES = {
    "gateway": {
        "key_limits": {
            "requests_per_s": 1_000_000,
            "burst_max": 1_000_000,
            "parallel_max": 10_000,
            **WORK,
        },
        "payer_limits": {"parallel_max": 10_000, **WORK},
        "address_limits": WORK,
    }
}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def process(*arguments: str) -> Iterator[int]:
    """A Python module of ours that says `ready`; its process id."""
    with subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None, "a pipe was asked for"
            said = child.stdout.readline()
            if said != b"ready\n":
                raise RuntimeError(f"{arguments} did not start")
            yield child.pid
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(STOP_DEADLINE_S)


@contextmanager
def nginx(home: Path, to_port: int) -> Iterator[tuple[int, int] | None]:
    """Put nginx in front of a port: (process id, port), or None where it is not installed."""
    program = shutil.which("nginx")
    if program is None:
        yield None
        return
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    config = home / "nginx.conf"
    config.write_text(
        f"""daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream engine {{ server {HOST}:{to_port}; keepalive 128; }}
  server {{ listen {HOST}:{port}; keepalive_requests 1000000; location / {{
    proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_buffering off; }} }}
}}
"""
    )
    with subprocess.Popen([program, "-c", str(config), "-p", str(home)]) as child:
        try:
            wait_for(lambda: is_open(port), "nginx listens")
            yield child.pid, port
        finally:
            child.terminate()
            child.wait(STOP_DEADLINE_S)


def is_open(port: int) -> bool:
    """Does somebody listen there?"""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Ground:
    """A market under measurement, driven by the commands that people use."""

    home: Path
    port: int

    def penstock(self, *arguments: str) -> str:
        """Run a command; what it printed. Raises RuntimeError with what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "penstock.cli.main", *arguments, "--home", str(self.home)],
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"penstock {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def up(self, *, miners: int, settings: dict[str, dict[str, Any]] | None = None) -> None:
        """Start it with the limits of a key out of the way; returns when it is ready. `settings` are
        more of them, by station.
        """
        overrides = self.home / "overrides"
        overrides.mkdir(parents=True, exist_ok=True)
        wanted = dict(OVERRIDES)
        for station, values in (settings or {}).items():
            wanted[station] = {**wanted.get(station, {}), **values}
        for station, values in wanted.items():
            (overrides / f"{station}.json").write_text(json.dumps(values))
        options = ("--miners", str(miners), "--validators", "0", "--port", str(self.port))
        self.penstock("up", "--detach", *options)

    def down(self) -> None:
        """Stop it."""
        self.penstock("down")

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def api_key(self) -> str:
        return (self.home / "keys" / "api-key").read_text().strip()

    def pids(self) -> dict[str, int]:
        """Process ids by station."""
        stations = json.loads(self.penstock("status", "--json"))["stations"]
        return {one["name"]: int(one["pid"]) for one in stations if one["pid"] is not None}

    def worker_pid(self, miner_pid: int) -> int:
        """The llama.cpp worker of a miner."""
        return next(one for one in children(miner_pid) if "llamacpp_worker" in command_line(one))

    def worker_url(self) -> str:
        """Where the miner's llama.cpp worker answers, from the line it says when it serves."""
        for log in (self.home / "miners").rglob("tiny-chat-*.log"):
            for line in log.read_text(errors="replace").splitlines():
                if line.startswith('{"address":'):
                    return str(json.loads(line)["address"])
        raise RuntimeError("no llama.cpp worker has said where it serves")

    def page(self, station: str, path: str) -> str:
        """A page of a station."""
        url = json.loads((self.home / "state.json").read_text())["urls"][station]
        with urllib.request.urlopen(url + path, timeout=30) as reply:
            text: str = reply.read().decode()
        return text

    def deploy(self, name: str, engine_port: int, *, parallel_max: int) -> None:
        """A chute on a server at a port; returns when a miner serves it."""
        file = self.home / f"{name}.toml"
        file.write_text(CHUTE.format(name=name, port=engine_port, parallel_max=parallel_max))
        self.penstock("deploy", str(file))
        wait_for(lambda: self._serves(name), f"{name} is served")

    def _serves(self, name: str) -> bool:
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            data=json.dumps(question(name, words=1)).encode(),
            headers={"authorization": f"Bearer {self.api_key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return bool(reply.status == 200)
        except urllib.error.HTTPError:
            return False


CHUTE = """name = "{name}"
modality = "chat"
engine = "openai-http"
source = "http://127.0.0.1:{port}#echo"
hardware = "cpu"
instances_min = 1
instances_max = 1
[limits]
context_tokens_max = 4096
output_tokens_max = 512
parallel_max = {parallel_max}
[price_usd_per_million]
prompt = "0.01"
completion = "0.02"
"""


def question(model: str, *, words: int, **fields: Any) -> dict[str, Any]:
    """A chat request whose echo has so many words; a model stops after so many tokens."""
    text = " ".join(["water", "flows", "downhill", "through", "every", "open", "gate"] * words)
    text = " ".join(text.split()[:words])
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": words,
        "temperature": 0,
        **fields,
    }


def wait_for(is_so: Any, what: str) -> None:
    """Until the function is true. Raises RuntimeError after DEADLINE_S."""
    end_at = time.monotonic() + DEADLINE_S
    while not is_so():
        if time.monotonic() > end_at:
            raise RuntimeError(f"not in {DEADLINE_S} s: {what}")
        time.sleep(CHECK_EVERY_S)

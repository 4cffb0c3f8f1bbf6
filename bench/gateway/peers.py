"""The gateways that ours is measured against, installed if they are missing, set to do the least.

nginx and haproxy pass bytes on: keep-alive to the upstream, buffering off, no logs. sglang-router and
LiteLLM also check a key, as ours does; no database, no logs, no retries, one worker each.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.gateway.cast import MODEL
from bench.gateway.processes import Program, running, wait_open
from bench.gateway.targets import HOST, PEERS, Ground, Missing, Start, Target
from bench.ground import free_port

INSTALL_DEADLINE_S = 600
START_DEADLINE_S = 60
LITELLM_DEADLINE_S = 180
SGLANG_ROUTER = "sglang-router==0.3.2"
LITELLM = "litellm[proxy]==1.106.2"
KEY = "sk-bench"
VERSION = re.compile(r"\d+(?:\.\d+)+")


@contextmanager
def direct(ground: Ground) -> Iterator[Target]:
    """Nothing between the load and the upstream; its CPU is the upstream's."""
    yield Target("direct", "", ground.upstream_port, ())


@contextmanager
def nginx(ground: Ground) -> Iterator[Target]:
    """One worker, `proxy_buffering off`, 1024 idle connections to the upstream."""
    program = debian("nginx")
    home, port = ground.home("nginx"), free_port()
    config = home / "nginx.conf"
    config.write_text(NGINX.format(home=home, port=port, upstream=ground.upstream_port))
    log = home / "log"
    argv = (program, "-c", str(config), "-p", str(home))
    with running(Program(argv, log, ground.cores.gateway, env={})) as child:
        wait_open(child, port, log=log, deadline_s=START_DEADLINE_S)
        yield Target("nginx", _version(program, "-v"), port, (child.pid,))


@contextmanager
def haproxy(ground: Ground) -> Iterator[Target]:
    """One thread, connections reused, chunks passed on at once (`http-no-delay`)."""
    program = debian("haproxy")
    home, port = ground.home("haproxy"), free_port()
    config = home / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, upstream=ground.upstream_port))
    log = home / "log"
    with running(Program((program, "-f", str(config)), log, ground.cores.gateway, env={})) as child:
        wait_open(child, port, log=log, deadline_s=START_DEADLINE_S)
        yield Target("haproxy", _version(program, "-v"), port, (child.pid,))


@contextmanager
def sglang_router(ground: Ground) -> Iterator[Target]:
    """HTTP mode with its key check, round robin; retries and circuit breaker off."""
    python = pypi("sglang-router", SGLANG_ROUTER, ground)
    home, port = ground.home("sglang-router"), free_port()
    log = home / "log"
    argv = (
        *(python, "-m", "sglang_router.launch_router", "--host", HOST, "--port", port),
        *("--worker-urls", ground.upstream, "--policy", "round_robin", "--api-key", KEY),
        *("--disable-retries", "--disable-circuit-breaker", "--log-level", "error"),
        *("--prometheus-host", HOST, "--prometheus-port", free_port()),
    )
    with running(Program(tuple(map(str, argv)), log, ground.cores.gateway, env={})) as child:
        wait_open(child, port, log=log, deadline_s=START_DEADLINE_S)
        yield Target("sglang-router", SGLANG_ROUTER.partition("==")[2], port, (child.pid,))


@contextmanager
def litellm(ground: Ground) -> Iterator[Target]:
    """The proxy with a master key, production mode, no database, one uvicorn worker."""
    python = pypi("litellm", LITELLM, ground)
    home, port = ground.home("litellm"), free_port()
    config = home / "config.yaml"
    config.write_text(json.dumps(_litellm_config(ground)))  # JSON is YAML
    log = home / "log"
    argv = (
        *(python.parent / "litellm", "--config", config, "--host", HOST, "--port", port),
        *("--num_workers", "1", "--telemetry", "False"),
    )
    env = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DONT_SHOW_FEEDBACK_BOX": "true",
        "PYTHONUNBUFFERED": "1",
    }
    with running(Program(tuple(map(str, argv)), log, ground.cores.gateway, env=env)) as child:
        wait_open(child, port, log=log, deadline_s=LITELLM_DEADLINE_S)
        yield Target("litellm", LITELLM.partition("==")[2], port, (child.pid,))


def debian(name: str) -> str:
    """The program of a Debian package, installed if we may. Raises Missing."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is not None:
        return found
    command = f"apt-get install --yes --no-install-recommends {name}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"{name} is not installed; run as root: {command}")
    # A package that is only to be measured must not start as a service.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (command.split(), ["apt-get", "update"], command.split()):
        done = _run(words, environment)
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if found is not None:
            return found
    raise Missing(f"`{command}` failed: {done}")


def pypi(name: str, requirement: str, ground: Ground) -> Path:
    """The Python of a peer's own environment, made on first use. Raises Missing."""
    home = PEERS / name
    python, mark = home / "bin" / "python", home / "installed"
    if mark.exists() and mark.read_text() == requirement:
        return python
    ground.say(f"installing {requirement}")
    uv = str(Path(sys.executable).parent / "uv")
    for words in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
        [uv, "pip", "install", "--quiet", "--python", str(python), requirement],
    ):
        said = _run(words, dict(os.environ))
        if said is not None:
            raise Missing(f"`{' '.join(words)}` failed: {said}")
    mark.write_text(requirement)
    return python


def _run(words: list[str], environment: dict[str, str]) -> str | None:
    """None when it went well, else what was said."""
    try:
        done = subprocess.run(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else " / ".join(done.stderr.strip().splitlines()[-3:])


def _version(program: str, option: str) -> str:
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    found = VERSION.search(done.stdout + done.stderr)
    return found[0] if found else ""


def _litellm_config(ground: Ground) -> dict[str, object]:
    parameters = {
        "model": f"openai/{MODEL}",
        "api_base": f"{ground.upstream}/v1",
        "api_key": "none",
    }
    return {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"num_retries": 0, "request_timeout": 600},
    }


NGINX = """daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  keepalive_requests 100000000;
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_buffering off; client_body_buffer_size 16k; }} }}
}}
"""
HAPROXY = """global
  maxconn 4096
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 120s
  http-reuse always
  option http-no-delay
frontend bench
  bind 127.0.0.1:{port}
  default_backend engine
backend engine
  server mock 127.0.0.1:{upstream} maxconn 4096
"""

STARTS: dict[str, Start] = {
    "direct": direct,
    "nginx": nginx,
    "haproxy": haproxy,
    "sglang-router": sglang_router,
    "litellm": litellm,
}

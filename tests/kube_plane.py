"""A real Kubernetes control plane on this machine, for tests: etcd, API server, Job controller, scheduler.

PENSTOCK_TEST_KUBE names the folder with the programs (tools/kube.sh makes one). There is no kubelet:
tests/kube_node.py stands in for the node and says what it leaves out.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
START_S = 120
NAMESPACE = "engines"
TOKENS = {"admin": "token-of-admin", "agent": "token-of-agent"}
ROLE = Path(__file__).parents[1] / "docs" / "runtimes-kubernetes.yaml"


@dataclass(frozen=True, slots=True)
class Plane:
    """agent: the kubeconfig of a user with the documented rights; admin may do all."""

    agent: Path
    admin: Path


def program_folder() -> Path:
    """Skips the test where the programs are missing."""
    named = os.environ.get("PENSTOCK_TEST_KUBE", "")
    if not named:
        pytest.skip("no control plane named in PENSTOCK_TEST_KUBE: tools/kube.sh makes one")
    pytest.importorskip("kubernetes", reason="pip install 'penstock[kubernetes]'")
    folder = Path(named)
    assert not [one for one in PROGRAMS if not (folder / one).exists()], f"{PROGRAMS} in {folder}"
    return folder


@contextmanager
def control_plane() -> Iterator[Plane]:
    programs, folder = program_folder(), Path(tempfile.mkdtemp(prefix="kube-"))
    ports = free_ports(3)
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            command = [str(programs / name), *arguments]
            started.append(
                subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            )

    try:
        etcd = f"http://127.0.0.1:{ports[0]}"
        start("etcd", *etcd_arguments(folder, etcd, f"http://127.0.0.1:{ports[1]}"))
        start("kube-apiserver", *api_arguments(folder, etcd, ports[2]))
        plane = Plane(
            agent=kubeconfig(folder, ports[2], "agent"), admin=kubeconfig(folder, ports[2], "admin")
        )
        until_ready(folder, plane)
        admin = f"--kubeconfig={plane.admin}"
        common = (admin, "--leader-elect=false", "--port=0", "--secure-port=0")
        start(
            "kube-controller-manager",
            *common,
            "--controllers=job,garbagecollector,ttl-after-finished",
            "--feature-gates=TTLAfterFinished=true",
        )
        start("kube-scheduler", *common)
        grant(plane)
        with (folder / "node.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.kube_node", str(plane.admin), str(folder)],
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).parents[1],
                )
            )
        yield plane
    finally:
        for process in reversed(started):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def etcd_arguments(folder: Path, clients: str, peers: str) -> tuple[str, ...]:
    return (
        *(f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync"),
        *(f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}"),
        *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
        f"--initial-cluster=default={peers}",
    )


def api_arguments(folder: Path, etcd: str, port: int) -> tuple[str, ...]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "accounts.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    groups = {"admin": "system:masters", "agent": "nobody"}
    lines = [f'{token},{user},{user},"{groups[user]}"\n' for user, token in TOKENS.items()]
    (folder / "tokens.csv").write_text("".join(lines))
    return (
        *(f"--etcd-servers={etcd}", f"--secure-port={port}", "--bind-address=127.0.0.1"),
        *(f"--cert-dir={folder / 'certs'}", f"--token-auth-file={folder / 'tokens.csv'}"),
        *("--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"),
        *("--service-account-issuer=https://kubernetes.default.svc",),
        f"--service-account-key-file={folder / 'accounts.key'}",
        f"--service-account-signing-key-file={folder / 'accounts.key'}",
        *("--service-cluster-ip-range=10.0.0.0/24", "--feature-gates=TTLAfterFinished=true"),
        "--kubelet-preferred-address-types=InternalIP",
    )


def kubeconfig(folder: Path, port: int, user: str) -> Path:
    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority": str(folder / "certs" / "apiserver.crt"),
    }
    form = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": TOKENS[user]}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        "current-context": "test",
    }
    path = folder / f"{user}.json"
    path.write_text(json.dumps(form))
    return path


def client_of(path: Path) -> Any:
    import kubernetes.config

    load: Any = kubernetes.config
    return load.new_client_from_config(str(path))


def until_ready(folder: Path, plane: Plane) -> None:
    from kubernetes.client import CoreV1Api
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        try:
            with client_of(plane.admin) as client:
                CoreV1Api(client).read_namespace("kube-system", _request_timeout=5)
        except (ApiException, HTTPError, OSError):
            time.sleep(0.3)
        else:
            return
    raise AssertionError((folder / "kube-apiserver.log").read_text()[-3000:])


def grant(plane: Plane) -> None:
    """The namespace, and for the agent exactly the documented rights."""
    import yaml
    from kubernetes.client import CoreV1Api, RbacAuthorizationV1Api

    with client_of(plane.admin) as client:
        core: Any = CoreV1Api(client)
        core.create_namespace({"metadata": {"name": NAMESPACE}})
        rights: Any = RbacAuthorizationV1Api(client)
        documents = list(yaml.safe_load_all(ROLE.read_text()))
        [role] = [one for one in documents if one["kind"] == "Role"]
        role["metadata"].pop("namespace", None)
        rights.create_namespaced_role(NAMESPACE, role)
        rights.create_namespaced_role_binding(
            NAMESPACE,
            {
                "metadata": {"name": "agent"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Role",
                    "name": role["metadata"]["name"],
                },
                "subjects": [
                    {"kind": "User", "name": "agent", "apiGroup": "rbac.authorization.k8s.io"}
                ],
            },
        )


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]

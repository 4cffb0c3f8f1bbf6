"""A stand-in for a node with its kubelet: `python -m tests.kube_node KUBECONFIG FOLDER`.

It runs the containers of pods that the scheduler gave it as processes of this machine, with the
environment, settings and grace of their specification, tells the API server what became of them, and
serves their logs over the kubelet's own HTTPS interface. It leaves out images, users, mounts, networks and
probes: an image whose name starts with `missing` cannot be pulled, and each pod has a loopback address.
"""

import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64decode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kubernetes.client import ApiException, CoreV1Api
from tests.kube_plane import client_of

from penstock.adapters.runtimes.kubernetes_form import SETTINGS

NODE = "this-machine"
LOOK_S = 0.1
LOGS = re.compile(r"/containerLogs/[^/]+/([^/]+)/[^/]+")


@dataclass
class Container:
    """One pod's process."""

    process: subprocess.Popen[bytes]
    address: str
    started: datetime
    kill_at_s: float = 0.0
    is_told: bool = False


@dataclass
class Node:
    core: Any
    folder: Path
    pods: dict[str, Container] = field(default_factory=dict)
    count: int = 1

    def join(self, port: int) -> None:
        """Be a node with room, but without GPUs."""
        self.core.create_node({"metadata": {"name": NODE}})
        room = {"cpu": "8", "memory": "16Gi", "pods": "100"}
        condition = {"type": "Ready", "status": "True", "reason": "Test", "message": ""}
        status = {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [condition],
        }
        self.core.patch_node_status(NODE, {"status": status})
        self.core.patch_node(NODE, {"spec": {"taints": []}})

    def run(self) -> None:
        while True:
            mine = self.core.list_pod_for_all_namespaces(field_selector=f"spec.nodeName={NODE}")
            for pod in mine.items:
                try:
                    self.look_after(pod)
                except ApiException as error:
                    if error.status not in {404, 409}:
                        raise
            time.sleep(LOOK_S)

    def look_after(self, pod: Any) -> None:
        uid = pod.metadata.uid
        there = self.pods.get(uid)
        if pod.metadata.deletion_timestamp is not None:
            self.end(pod, there)
        elif there is None and pod.status.phase == "Pending":
            self.begin(pod)
        elif there is not None and not there.is_told and there.process.poll() is not None:
            there.is_told = True
            code = there.process.returncode
            code = 128 - code if code < 0 else code
            over = {"exitCode": code, "reason": "Error" if code else "Completed"}
            self.tell(pod, "Failed" if code else "Succeeded", {"terminated": over})

    def begin(self, pod: Any) -> None:
        [container] = pod.spec.containers
        if container.image.startswith("missing"):
            why = {"reason": "ErrImagePull", "message": f"no image {container.image}"}
            self.tell(pod, "Pending", {"waiting": why})
            return
        self.count += 1
        address = f"127.0.0.{self.count}"
        place = self.folder / pod.metadata.uid
        place.mkdir(mode=0o700, exist_ok=True)
        secrets = self.secrets(pod, container)
        if secrets is None:
            return  # As a kubelet does: try again until it is there.
        (place / "stdin").write_bytes(secrets["stdin"])
        env = {
            one.name: one.value
            if one.value_from is None
            else secrets[one.value_from.secret_key_ref.key].decode()
            for one in container.env
        }
        env["PENSTOCK_HOST"] = address
        env["HOME"] = env["TMPDIR"] = str(place)
        command = [word.replace(SETTINGS, str(place)) for word in container.command]
        with (self.folder / f"{pod.metadata.name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=env, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        self.pods[pod.metadata.uid] = Container(process, address, datetime.now(UTC))
        self.tell(pod, "Running", {"running": {"startedAt": now()}}, address)

    def secrets(self, pod: Any, container: Any) -> dict[str, bytes] | None:
        [name] = [one.secret.secret_name for one in pod.spec.volumes if one.secret]
        try:
            found = self.core.read_namespaced_secret(name, pod.metadata.namespace)
        except ApiException:
            return None
        return {key: b64decode(value) for key, value in found.data.items()}

    def end(self, pod: Any, there: Container | None) -> None:
        if there is not None and there.process.poll() is None:
            if not there.kill_at_s:
                grace_s = pod.metadata.deletion_grace_period_seconds or 0
                there.kill_at_s = time.monotonic() + grace_s
                os.killpg(there.process.pid, signal.SIGTERM)
            if time.monotonic() < there.kill_at_s:
                return
            os.killpg(there.process.pid, signal.SIGKILL)
            there.process.wait()
        self.core.delete_namespaced_pod(
            pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0
        )

    def tell(self, pod: Any, phase: str, state: dict[str, Any], address: str = "") -> None:
        container = {
            "name": pod.spec.containers[0].name,
            "image": pod.spec.containers[0].image,
            "imageID": "",
            "ready": phase == "Running",
            "restartCount": 0,
            "state": state,
        }
        status: dict[str, Any] = {"phase": phase, "containerStatuses": [container]}
        if address:
            status |= {"podIP": address, "podIPs": [{"ip": address}], "startTime": now()}
        self.core.patch_namespaced_pod_status(
            pod.metadata.name, pod.metadata.namespace, {"status": status}
        )


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def serve_logs(folder: Path) -> int:
    """The kubelet's interface for logs; returns its port."""

    class Logs(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            match, bounds = LOGS.fullmatch(asked.path), parse_qs(asked.query)
            path = folder / f"{match[1]}.log" if match else None
            if path is None or not path.exists():
                self.send_error(404)
                return
            text = path.read_bytes()
            if "tailLines" in bounds:
                text = b"".join(text.splitlines(keepends=True)[-int(bounds["tailLines"][0]) :])
            if "limitBytes" in bounds:
                text = text[: int(bounds["limitBytes"][0])]
            self.send_response(200)
            self.send_header("content-type", "text/plain")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Logs)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(folder))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def certificate(folder: Path) -> Path:
    """Of its own making: the API server does not check it, as in many clusters."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NODE)])
    made = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "node.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + made.public_bytes(encoding))
    return path


def main(kubeconfig: str, folder: str) -> None:
    node = Node(CoreV1Api(client_of(Path(kubeconfig))), Path(folder))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        node.join(serve_logs(node.folder))
        node.run()
    finally:
        for container in node.pods.values():
            if container.process.poll() is None:
                os.killpg(container.process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Asks a real Helm what it makes of our chart. Run by the interpreter that has `helm-sdkpy` (make chart):

    python helm_says.py CHART < values.json

Prints `{"lint": [...], "error": "", "objects": [...]}`. Helm installs into an API server that is played
here: it knows the kinds, takes every object, and keeps what it was sent. So the templates, the schema and
the requests are real; what a cluster would say of the objects is not asked.
"""

import asyncio
import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import helm_sdkpy

Json = dict[str, Any]

KINDS = {
    "v1": {
        "secrets": "Secret",
        "configmaps": "ConfigMap",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "apps/v1": {"statefulsets": "StatefulSet"},
    "rbac.authorization.k8s.io/v1": {"roles": "Role", "rolebindings": "RoleBinding"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
RELEASE = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "release"}}
SERVER_VERSION = {"major": "1", "minor": "30", "gitVersion": "v1.30.0"}


class Cluster(BaseHTTPRequestHandler):
    """An API server that takes what it is given."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[list[Json]] = []

    def log_message(self, *_words: object) -> None:
        """Nothing: stdout is the answer."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        found = discovery(path)
        if found is None and path.rpartition("/")[2] in KINDS["v1"]:
            found = {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []}
        if found is None:
            found = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": "NotFound",
            }
            self.say(404, found | {"code": 404})
            return
        self.say(200, found)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        sent = RELEASE
        if "/secrets" not in self.path:  # Helm keeps its own notes there, not as JSON
            sent = json.loads(data)
            self.objects.append(sent)
        self.say(201, sent)

    do_PUT = do_PATCH = do_POST  # noqa: N815 - as the library calls them

    def say(self, status: int, value: Json) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def discovery(path: str) -> Json | None:
    """What there is, for the paths that ask it; None for others."""
    groups = [group for group in KINDS if "/" in group]
    if path == "/version":
        return SERVER_VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [entry(one) for one in groups],
        }
    group = path.removeprefix("/apis/") if path.startswith("/apis/") else path.removeprefix("/api/")
    if group not in KINDS:
        return None
    resources = [
        {"name": name, "kind": kind, "namespaced": True, "verbs": VERBS, "singularName": ""}
        for name, kind in KINDS[group].items()
    ]
    return {"kind": "APIResourceList", "groupVersion": group, "resources": resources}


def entry(group: str) -> Json:
    version = {"groupVersion": group, "version": "v1"}
    return {"name": group.partition("/")[0], "versions": [version], "preferredVersion": version}


def kubeconfig(port: int) -> Path:
    """A file that leads to the cluster that is played."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = Path(tempfile.mkdtemp()) / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


async def ask(chart: str, values: Json) -> Json:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = helm_sdkpy.Configuration(
        namespace="engines", kubeconfig=str(kubeconfig(server.server_port))
    )
    error = ""
    linted = await helm_sdkpy.Lint(config).run(chart)
    try:
        await helm_sdkpy.Install(config).run("mine", chart, values=values, wait=False, timeout=30)
    except helm_sdkpy.InstallError as failed:
        error = str(failed)
    return {"lint": linted["Errors"] or [], "error": error, "objects": Cluster.objects}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(sys.argv[1], json.load(sys.stdin)))))

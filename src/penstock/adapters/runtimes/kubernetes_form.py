"""A task as Kubernetes is given it: one Job, a Secret with its settings, and what it may reach.

A Job and not a Deployment: when an engine ends, the miner must hear of it, withdraw its offers and decide
itself about a new start; a Job keeps how it ended, a Deployment would start it again behind our back. An
engine of several nodes is an Indexed Job: its pods have numbers and names, and with `backoffLimit` 0 the
end of one ends all. Everything else is owned by the Job and goes with it.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.kit.runtime import Reach, Task, TaskFailed

Form = dict[str, Any]

HOME_LABEL = "penstock.io/home"
TASK_LABEL = "penstock.io/task"
REACH_LABEL = "penstock.io/reach"
CONTENT_NOTE = "penstock.io/content"
ADDRESS_NOTE = "penstock.io/address"
STARTED_NOTE = "penstock.io/started-ms"
INDEX_NOTE = "batch.kubernetes.io/job-completion-index"

CONTAINER = "engine"
PORT = 8000
"""Where a task with `{port}` listens inside its pod."""
SETTINGS = "/run/penstock"
SCRATCH = "/tmp"  # noqa: S108 - of the pod, empty at its start
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - of the pod
CHECK = """command -v "$1" >/dev/null || { echo '{"error": "its image has no such program"}'; exit 127; }"""
SAY = f"""echo '{{"address": "http://127.0.0.1:{PORT}"}}'"""
FEED = f'exec "$@" <{SETTINGS}/stdin'
"""A pod has no stdin that is written once, so a shell of the image opens the file for the program; it
also says what a pod's state does not: that there is a program, and where one with `{port}` serves."""
KEPT_S = 3600
"""How long an ended Job stays with its log."""
PROBE_EVERY_S = 10
LOAD_S_MAX = 24 * 3600
NAME_CHARS_MAX = 40
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class PodBounds:
    """What no pod may exceed, and how it is run.

    user: its number; images that need another say so here, but never 0. runtime_class: `gvisor`, `kata`
    or what the cluster has, "" for its default. gpu_resource: what the device plug-in calls a GPU.
    claims: mount path -> PersistentVolumeClaim, where models lie. callers: labels of the pods that may
    call an engine, empty for anybody in the cluster's network.
    """

    user: int = 65_532
    runtime_class: str = ""
    gpu_resource: str = "nvidia.com/gpu"
    claims: tuple[tuple[str, str], ...] = ()
    callers: tuple[tuple[str, str], ...] = ()
    scratch_bytes_max: int = 16 << 30
    shared_bytes_max: int = 4 << 30

    def __post_init__(self) -> None:
        if self.user <= 0:
            raise ValueError(f"pods never run as root: user is over 0, got {self.user}")


def job_name(home: str, task: str) -> str:
    """A DNS label of this home and task alone, so that two agents cannot make two Jobs of one task."""
    end = hashlib.sha256(f"{home}/{task}".encode()).hexdigest()[:10]
    return f"{task[:NAME_CHARS_MAX].rstrip('-')}-{end}"


def check_cluster_task(task: Task, bounds: PodBounds) -> None:
    """Raises TaskFailed for what this runtime does not do."""
    reason = remedy = ""
    odd = [name for name in task.env if _ENV_NAME.fullmatch(name) is None]
    homeless = [path for path in task.writable if claim_of(path, bounds) is None]
    if not task.image:
        reason = "it names no container image."
        remedy = "Set the image of its engine, or use the process runtime."
    elif task.needs.gpu_uuids:
        reason = "the cluster chooses the GPUs by itself."
        remedy = "Say how many (gpus), not which."
    elif task.needs.nodes > 1 and task.needs.reach is not Reach.HOST:
        reason = f"its nodes must call each other, which reach {task.needs.reach.value} forbids."
        remedy = "Set its reach to host."
    elif odd:
        reason = f"{odd[0][:80]!r} is no name of an environment variable."
    elif homeless:
        reason = f"it writes to {homeless[0]}, which lies in no claim."
        remedy = "Add the PersistentVolumeClaim to the runtime's `claims`."
    if reason:
        raise TaskFailed(name=task.name, reason=reason, remedy=remedy)


def job_form(
    task: Task, labels: dict[str, str], notes: dict[str, str], *, orphan_s: int, bounds: PodBounds
) -> Form:
    """The Job. Its `activeDeadlineSeconds` is what ends an orphan: each beat pushes it ahead."""
    nodes = task.needs.nodes
    name = job_name(labels[HOME_LABEL], task.name)
    spec: Form = {
        "backoffLimit": 0,
        "parallelism": nodes,
        "completions": nodes,
        "activeDeadlineSeconds": orphan_s,
        "ttlSecondsAfterFinished": KEPT_S,
        "template": {
            "metadata": {"labels": labels, "annotations": notes},
            "spec": pod_form(task, name, labels=labels, bounds=bounds),
        },
    }
    if nodes > 1:
        spec["completionMode"] = "Indexed"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": notes},
        "spec": spec,
    }


def pod_form(task: Task, name: str, *, labels: dict[str, str], bounds: PodBounds) -> Form:
    pod: Form = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": max(1, -(-task.stop_ms // 1000)),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": bounds.user,
            "runAsGroup": bounds.user,
            "fsGroup": bounds.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container_form(task, name, bounds)],
        "volumes": volume_forms(task, name, bounds),
    }
    if bounds.runtime_class:
        pod["runtimeClassName"] = bounds.runtime_class
    if task.needs.nodes > 1:
        pod["subdomain"] = name
        apart = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
        pod["affinity"] = {
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
        }
    return pod


def container_form(task: Task, name: str, bounds: PodBounds) -> Form:
    argv = [word.replace("{port}", str(PORT)) for word in task.argv]
    limits = resource_forms(task, bounds)
    script = "\n".join((CHECK, *(() if task.announces else (SAY,)), FEED))
    form: Form = {
        "name": CONTAINER,
        "image": task.image,
        "command": ["/bin/sh", "-c", script, "sh", *argv],
        "env": env_forms(task, name),
        "resources": {"limits": limits, "requests": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mount_forms(task, bounds),
    }
    if not task.announces and task.needs.nodes == 1:
        listens = {"tcpSocket": {"port": PORT}, "periodSeconds": PROBE_EVERY_S}
        form["ports"] = [{"containerPort": PORT}]
        form["startupProbe"] = {**listens, "failureThreshold": LOAD_S_MAX // PROBE_EVERY_S}
        form["readinessProbe"] = {**listens, "failureThreshold": 1}
        form["livenessProbe"] = {**listens, "failureThreshold": 6}
    return form


def env_forms(task: Task, name: str) -> list[Form]:
    """The task's own from its Secret; what we add is no secret. Later ones win, so the task's are last."""
    told = {"HOME": SCRATCH, "TMPDIR": SCRATCH, "PENSTOCK_HOST": "0.0.0.0"}  # noqa: S104 - of the pod
    added: list[Form] = [
        {"name": key, "value": text} for key, text in told.items() if key not in task.env
    ]
    if task.needs.nodes > 1:
        index = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_NOTE}']"}}
        added += [
            {"name": "PENSTOCK_RANK", "valueFrom": index},
            {"name": "PENSTOCK_NODES", "value": str(task.needs.nodes)},
            {"name": "PENSTOCK_LEADER", "value": f"{name}-0.{name}"},
        ]
    own: list[Form] = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": f"env.{key}"}}}
        for key in sorted(task.env)
    ]
    return [*added, *own]


def resource_forms(task: Task, bounds: PodBounds) -> dict[str, str]:
    """Limits of each node; requests are the same, so that a pod is never the first to be evicted."""
    needs = task.needs
    found = {}
    if needs.cpu_milli:
        found["cpu"] = f"{needs.cpu_milli}m"
    if needs.memory_bytes:
        found["memory"] = str(needs.memory_bytes)
    if needs.gpus:
        found[bounds.gpu_resource] = str(needs.gpus)
    return found


def volume_forms(task: Task, name: str, bounds: PodBounds) -> list[Form]:
    settings = {
        "secretName": name,
        "items": [{"key": "stdin", "path": "stdin"}],
        "defaultMode": 0o440,
    }
    forms: list[Form] = [
        {"name": "settings", "secret": settings},
        {"name": "scratch", "emptyDir": {"sizeLimit": str(bounds.scratch_bytes_max)}},
    ]
    if task.needs.gpus:
        shared = {"medium": "Memory", "sizeLimit": str(bounds.shared_bytes_max)}
        forms.append({"name": "shared", "emptyDir": shared})
    for number, (_, claim) in enumerate(bounds.claims):
        forms.append({"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim}})
    return forms


def mount_forms(task: Task, bounds: PodBounds) -> list[Form]:
    """Claims are read only but for what the task names as writable."""
    forms: list[Form] = [
        {"name": "settings", "mountPath": SETTINGS, "readOnly": True},
        {"name": "scratch", "mountPath": SCRATCH},
    ]
    if task.needs.gpus:
        forms.append({"name": "shared", "mountPath": SHARED_MEMORY})
    for number, (where, claim) in enumerate(bounds.claims):
        is_written = any(claim_of(path, bounds) == claim for path in task.writable)
        forms.append({"name": f"claim-{number}", "mountPath": where, "readOnly": not is_written})
    return forms


def claim_of(path: Path, bounds: PodBounds) -> str | None:
    """The claim that a path lies in; None for one that must be in the image."""
    return next((claim for where, claim in bounds.claims if path.is_relative_to(where)), None)


def secret_form(task: Task, labels: dict[str, str], owner: Form) -> Form:
    """Its settings and its environment: no list of processes or pods shows them."""
    data = {"stdin": task.stdin, **{f"env.{key}": text.encode() for key, text in task.env.items()}}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": owner["name"], "labels": labels, "ownerReferences": [owner]},
        "type": "Opaque",
        "immutable": True,
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def service_form(labels: dict[str, str], owner: Form) -> Form:
    """Names for the pods of an engine of several nodes, also before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": owner["name"], "labels": labels, "ownerReferences": [owner]},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels},
    }


def policy_form(home: str, bounds: PodBounds) -> Form:
    """Pods of this home with a closed reach call nobody, and are called by `callers` alone."""
    labels = {HOME_LABEL: home, REACH_LABEL: "closed"}
    spec: Form = {
        "podSelector": {"matchLabels": labels},
        "policyTypes": ["Egress"],
        "egress": [],
    }
    if bounds.callers:
        spec["policyTypes"].append("Ingress")
        spec["ingress"] = [{"from": [{"podSelector": {"matchLabels": dict(bounds.callers)}}]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"penstock-{home}", "labels": {HOME_LABEL: home}},
        "spec": spec,
    }

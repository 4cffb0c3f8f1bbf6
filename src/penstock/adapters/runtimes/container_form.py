"""A task as the form that the container service is given: what it may see, use and reach."""

from dataclasses import dataclass
from typing import Any

from penstock.kit.runtime import Task, TaskFailed

HOME_LABEL = "io.penstock.home"
NAME_LABEL = "io.penstock.task"
CONTENT_LABEL = "io.penstock.content"
ANNOUNCES_LABEL = "io.penstock.announces"
STARTED_LABEL = "io.penstock.started-ms"
PORT = 8000
"""Where a task with `{port}` listens inside its container."""
SCRATCH = "/tmp"  # noqa: S108 - of the container, in memory


@dataclass(frozen=True, slots=True)
class ContainerBounds:
    """What no container may exceed. user: as in `docker run --user`, "" for the image's own."""

    processes_max: int = 1024
    scratch_bytes_max: int = 1 << 30
    shared_bytes_max: int = 4 << 30
    log_bytes_max: int = 16 << 20
    user: str = ""


def container_form(
    task: Task, labels: dict[str, str], *, network: str, bounds: ContainerBounds
) -> dict[str, Any]:
    """Arguments of docker-py's `containers.create`. network: the closed one, "" for the default.

    Raises TaskFailed for a task without an image.
    """
    from docker.types import DeviceRequest, LogConfig, Ulimit

    if not task.image:
        remedy = "Set the image of its engine, or use the process runtime."
        raise TaskFailed(name=task.name, reason="it names no container image.", remedy=remedy)
    needs = task.needs
    argv = [word.replace("{port}", str(PORT)) for word in task.argv]
    gpus = [
        DeviceRequest(device_ids=list(needs.gpu_uuids), capabilities=[["gpu"]])
        if needs.gpu_uuids
        else DeviceRequest(count=needs.gpus, capabilities=[["gpu"]])
    ]
    log_config = {"max-size": str(bounds.log_bytes_max // 2), "max-file": "2"}
    form: dict[str, Any] = {
        "image": task.image,
        "entrypoint": argv[:1],
        "command": argv[1:],
        "environment": {"HOME": SCRATCH, "PENSTOCK_HOST": "0.0.0.0", **task.env},  # noqa: S104 - of the container's own network
        "labels": labels,
        "volumes": {
            **{str(path): {"bind": str(path), "mode": "ro"} for path in task.readable},
            **{str(path): {"bind": str(path), "mode": "rw"} for path in task.writable},
        },
        "tmpfs": {SCRATCH: f"size={bounds.scratch_bytes_max},mode=1777"},
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": bounds.processes_max,
        "ulimits": [
            Ulimit(name="nofile", soft=needs.files_max, hard=needs.files_max),
            Ulimit(name="core", soft=0, hard=0),
        ],
        "log_config": LogConfig(type="json-file", config=log_config),
        "init": True,
        "stdin_open": True,
    }
    if network:
        form["network"] = network
    else:
        form["ports"] = {f"{PORT}/tcp": ("127.0.0.1", None)}
    if needs.memory_bytes:
        form["mem_limit"] = form["memswap_limit"] = needs.memory_bytes
    if needs.cpu_milli:
        form["nano_cpus"] = needs.cpu_milli * 1_000_000
    if needs.gpus:
        form["device_requests"] = gpus
        form["shm_size"] = bounds.shared_bytes_max
    if bounds.user:
        form["user"] = bounds.user
    return form

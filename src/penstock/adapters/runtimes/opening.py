"""The runtime that a miner's configuration names, opened: all that a station's `app.py` needs of them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from penstock.adapters.runtimes.containers import ContainerConfig, ContainerRuntime
from penstock.adapters.runtimes.errors import LibraryMissing
from penstock.adapters.runtimes.process import ProcessConfig, ProcessRuntime
from penstock.adapters.runtimes.ray import RayConfig, RayRuntime
from penstock.kit.ports import Clock, Entropy
from penstock.kit.runtime import Runtime

SOCKETS: Mapping[str, tuple[Path, ...]] = {
    "docker": (Path("/var/run/docker.sock"),),
    "podman": (Path("/run/podman/podman.sock"),),
}
LIBRARIES = {"docker": "docker", "podman": "docker", "kubernetes": "kubernetes", "ray": "ray"}
"""What each needs besides this package; the extra of the same name brings it."""
EXTRAS = {"podman": "docker"}


class OpenRuntime(Runtime, Protocol):
    """A runtime that somebody has opened, and closes."""

    def close(self) -> None:
        """Let go of it; the tasks go on."""
        ...


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Of the runtime `kubernetes`; as `KubernetesConfig` and `PodBounds` say them."""

    namespace: str = "default"
    kubeconfig: str = ""
    context: str = ""
    user: int = 65_532
    runtime_class: str = ""
    gpu_resource: str = "nvidia.com/gpu"
    claims: Mapping[str, str] = field(default_factory=dict)
    callers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """kind: `process`, `docker`, `podman`, `kubernetes` or `ray`. path: where programs are looked for.

    socket: of the container service, "" for the usual one. ray_address, ray_python: see `RayConfig`.
    """

    kind: str
    path: str = os.defpath
    socket: str = ""
    ray_address: str = "auto"
    ray_python: str = ""
    cluster: ClusterSettings = field(default_factory=ClusterSettings)


async def open_runtime(
    home: Path, settings: RuntimeSettings, *, clock: Clock, entropy: Entropy
) -> OpenRuntime:
    """Raises HomeTaken, NoContainers, NoCluster, LibraryMissing, OSError, ValueError."""
    kind = settings.kind
    library = LIBRARIES.get(kind)
    has_own = kind == "ray" and settings.ray_python
    if library is not None and not has_own and find_spec(library) is None:
        raise LibraryMissing(kind, EXTRAS.get(kind, kind))
    match kind:
        case "process":
            config = ProcessConfig(path=settings.path)
            return await ProcessRuntime.open(home, config, clock=clock, entropy=entropy)
        case "docker" | "podman":
            socket = Path(settings.socket) if settings.socket else SOCKETS[kind][0]
            return await ContainerRuntime.open(home, ContainerConfig(socket, kind), clock=clock)
        case "kubernetes":
            return await open_cluster(home, settings.cluster, clock=clock, entropy=entropy)
        case "ray":
            ray = RayConfig(settings.ray_address, settings.ray_python)
            return await RayRuntime.open(home, ray, clock=clock, entropy=entropy)
        case _:
            raise ValueError(f"there is no runtime {kind!r}")


async def open_cluster(
    home: Path, settings: ClusterSettings, *, clock: Clock, entropy: Entropy
) -> OpenRuntime:
    """Raises NoCluster, OSError, ValueError."""
    from penstock.adapters.runtimes.kubernetes import KubernetesConfig, KubernetesRuntime
    from penstock.adapters.runtimes.kubernetes_form import PodBounds

    bounds = PodBounds(
        user=settings.user,
        runtime_class=settings.runtime_class,
        gpu_resource=settings.gpu_resource,
        claims=tuple(settings.claims.items()),
        callers=tuple(settings.callers.items()),
    )
    config = KubernetesConfig(
        namespace=settings.namespace,
        kubeconfig=Path(settings.kubeconfig) if settings.kubeconfig else None,
        context=settings.context,
        bounds=bounds,
    )
    return await KubernetesRuntime.open(home, config, clock=clock, entropy=entropy)

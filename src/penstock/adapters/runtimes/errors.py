"""What can go wrong with a runtime as a whole; what goes wrong with one task is kit's TaskFailed."""

from dataclasses import dataclass
from pathlib import Path

from penstock.kit.runtime import RuntimeDown


@dataclass(eq=False)
class HomeTaken(Exception):
    """Another agent works on the same home."""

    home: Path

    def __str__(self) -> str:
        return (
            f"Another agent works in {self.home}: one home, one agent. "
            "Stop it, or start this one with a home of its own (--home)."
        )


@dataclass(eq=False)
class LibraryMissing(Exception):
    """The runtime needs a package that is not installed."""

    kind: str
    extra: str

    def __str__(self) -> str:
        return (
            f"The runtime {self.kind} needs a package that is not installed here. "
            f"Run `pip install 'penstock[{self.extra}]'`, or use the process runtime."
        )


@dataclass(eq=False)
class NoContainers(Exception):
    """There is no container service to talk to, or it refuses us."""

    socket: str
    why: str

    def __str__(self) -> str:
        return (
            f"No container service answers at {self.socket} ({self.why}). Start docker or "
            "`podman system service`, add this user to its group, or use the process runtime."
        )


@dataclass(eq=False)
class NoCluster(RuntimeDown):
    """The cluster that tasks run in does not answer, or refuses us. They may well go on running."""

    kind: str
    where: str
    why: str

    def __str__(self) -> str:
        why = self.why.rstrip(".")
        return f"No {self.kind} cluster answers at {self.where}: {why}. {REMEDIES[self.kind]}"


REMEDIES = {
    "ray": (
        "Start Ray on this machine (`ray start --head`, or `ray start --address=HEAD` to join one), "
        "with the same Python and Ray on every node; see docs/runtimes.md."
    ),
    "kubernetes": (
        "Check `kubectl auth can-i create deployments -n NAMESPACE` with the same kubeconfig; the "
        "rights it needs are in docs/runtimes.md."
    ),
}

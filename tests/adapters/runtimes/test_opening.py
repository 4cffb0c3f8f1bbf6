"""The runtime that the configuration names is opened, or what is missing is said with the next command."""

import os
from pathlib import Path

import pytest

from penstock.adapters.runtimes import opening
from penstock.adapters.runtimes.errors import LibraryMissing, NoCluster, NoContainers
from penstock.adapters.runtimes.opening import ClusterSettings, RuntimeSettings, open_runtime
from penstock.kit.clock import SystemClock
from penstock.kit.runtime import RuntimeDown


async def opened(home: Path, settings: RuntimeSettings) -> str:
    runtime = await open_runtime(home, settings, clock=SystemClock(), entropy=os.urandom)
    try:
        return runtime.kind
    finally:
        runtime.close()


async def test_processes_of_this_machine_need_nothing_else(tmp_path: Path) -> None:
    assert await opened(tmp_path, RuntimeSettings("process")) == "process"


@pytest.mark.parametrize("kind", ["docker", "podman"])
async def test_a_service_that_does_not_answer_is_named(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("docker")
    nowhere = str(tmp_path / "nowhere.sock")
    with pytest.raises(NoContainers, match=r"nowhere\.sock"):
        await opened(tmp_path, RuntimeSettings(kind, socket=nowhere))


async def test_a_cluster_that_cannot_be_reached_is_down_and_not_a_bug(tmp_path: Path) -> None:
    pytest.importorskip("kubernetes")
    cluster = ClusterSettings(kubeconfig=str(tmp_path / "no.config"))
    with pytest.raises(NoCluster) as caught:
        await opened(tmp_path, RuntimeSettings("kubernetes", cluster=cluster))
    assert isinstance(caught.value, RuntimeDown)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [("docker", "docker"), ("podman", "docker"), ("kubernetes", "kubernetes"), ("ray", "ray")],
)
async def test_a_missing_package_is_told_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, extra: str
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    with pytest.raises(LibraryMissing, match=rf"pip install 'penstock\[{extra}\]'"):
        await opened(tmp_path, RuntimeSettings(kind))


async def test_a_kind_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="abacus"):
        await opened(tmp_path, RuntimeSettings("abacus"))

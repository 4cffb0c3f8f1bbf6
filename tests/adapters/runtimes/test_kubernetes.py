"""The kubernetes runtime on a real control plane, beyond the contract: rights, secrets, trouble, orphans."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster_grounds import LOOK_MS, kubernetes_ground, started_plane
from tests.kube_plane import NAMESPACE, client_of
from tests.runtime_grounds import DEADLINE_MS, Ground

from penstock.adapters.runtimes.errors import NoCluster
from penstock.adapters.runtimes.kubernetes import KubernetesConfig, KubernetesRuntime
from penstock.kit.clock import SystemClock
from penstock.kit.runtime import ORPHAN_MS, Needs, Reach, Runtime, TaskFailed

pytestmark = pytest.mark.slow  # a control plane


@pytest.fixture
async def kubernetes(tmp_path: Path) -> AsyncIterator[Ground]:
    async with kubernetes_ground(tmp_path, ORPHAN_MS) as made:
        yield made


def all_of(runtime: Runtime, method: str, api: str = "CoreV1Api") -> list[Any]:
    """What the administrator sees of that runtime's home."""
    import kubernetes.client

    assert isinstance(runtime, KubernetesRuntime)
    labels = f"penstock.io/home={runtime._home}"
    with client_of(started_plane().admin) as client:
        ask = getattr(getattr(kubernetes.client, api)(client), method)
        found: list[Any] = ask(NAMESPACE, label_selector=labels).items
        return found


async def test_settings_show_in_no_job_and_go_with_it(kubernetes: Ground) -> None:
    runtime = await kubernetes.agent()
    task = kubernetes.task("serve", stdin=b"very secret")
    running = await runtime.launch(task, deadline_ms=DEADLINE_MS)
    assert (await kubernetes.ask(running.address))["stdin"] == "very secret"
    [secret] = all_of(runtime, "list_namespaced_secret")
    assert "dmVyeSBzZWNyZXQ=" in secret.data.values()
    [job] = all_of(runtime, "list_namespaced_job", "BatchV1Api")
    [pod] = all_of(runtime, "list_namespaced_pod")
    told = json.dumps([job.to_dict(), pod.to_dict()], default=str)
    assert "very secret" not in told
    assert "dmVyeSBzZWNyZXQ=" not in told
    await runtime.stop("engine-1", deadline_ms=1_000)
    while all_of(
        runtime, "list_namespaced_secret"
    ):  # the cluster's garbage collector takes its time
        await asyncio.sleep(LOOK_MS / 1000)


async def test_closed_tasks_fall_under_the_homes_policy(kubernetes: Ground) -> None:
    runtime = await kubernetes.agent()
    await runtime.launch(kubernetes.task("serve"), deadline_ms=DEADLINE_MS)
    open_task = kubernetes.task("serve", name="engine-2", needs=Needs(reach=Reach.HOST))
    await runtime.launch(open_task, deadline_ms=DEADLINE_MS)
    labels = {
        one.metadata.labels["penstock.io/task"]: one.metadata.labels
        for one in all_of(runtime, "list_namespaced_pod")
    }
    home = labels["engine-1"]["penstock.io/home"]
    [policy] = all_of(runtime, "list_namespaced_network_policy", "NetworkingV1Api")
    assert policy.metadata.name == f"penstock-{home}"
    chosen = policy.spec.pod_selector.match_labels.items()
    assert chosen <= labels["engine-1"].items()
    assert not chosen <= labels["engine-2"].items()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image": "missing-image"}, "ErrImagePull"),
        ({"needs": Needs(gpus=8)}, "nvidia.com/gpu"),
        ({"needs": Needs(memory_bytes=1 << 50)}, "memory"),
    ],
)
async def test_what_the_cluster_lacks_is_said_in_its_words(
    kubernetes: Ground, fields: dict[str, Any], words: str
) -> None:
    runtime = await kubernetes.agent()
    with pytest.raises(TaskFailed) as failed:
        await runtime.launch(kubernetes.task("serve", **fields), deadline_ms=5_000)
    assert words in failed.value.reason
    assert "kubectl" in failed.value.remedy
    assert await runtime.list() == ()


async def test_several_nodes_are_refused_by_a_cluster_too_old_for_them(kubernetes: Ground) -> None:
    runtime = await kubernetes.agent()
    several = kubernetes.task("serve", needs=Needs(nodes=2, reach=Reach.HOST))
    with pytest.raises(TaskFailed, match=r"needs Kubernetes 1\.24"):
        await runtime.launch(several, deadline_ms=DEADLINE_MS)


async def test_a_beat_pushes_the_end_ahead(tmp_path: Path) -> None:
    async with kubernetes_ground(tmp_path, 30_000) as ground:
        runtime = await ground.agent()
        await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)

        def deadline_s() -> int:
            [job] = all_of(runtime, "list_namespaced_job", "BatchV1Api")
            return int(job.spec.active_deadline_seconds)

        first = deadline_s()
        assert first < ORPHAN_MS // 1000
        while deadline_s() == first:
            await runtime.beat()
        assert deadline_s() > first


async def test_a_user_without_rights_is_told_what_to_check(tmp_path: Path) -> None:
    config = KubernetesConfig("kube-system", started_plane().agent)
    with pytest.raises(NoCluster, match="forbidden") as refused:
        await KubernetesRuntime.open(tmp_path, config, clock=SystemClock(), entropy=os.urandom)
    assert "kubectl auth can-i" in str(refused.value)

"""The runtime `kubernetes`: engines as Jobs of a cluster, by the official client.

The agent runs in the cluster, or where the pods' addresses can be called. What it makes and why is in
kubernetes_form.py. A Job outlives the agent; labels and notes say whose it is and what it was made from.
Orphans are ended by the cluster itself: a Job has a deadline, and each beat pushes it ahead.
"""

import asyncio
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from penstock.adapters.runtimes import kubernetes_form as forms
from penstock.adapters.runtimes.announcement import Announcement, announced
from penstock.adapters.runtimes.errors import NoCluster
from penstock.adapters.runtimes.home_id import home_id
from penstock.adapters.runtimes.kubernetes_calls import HEAD_BYTES_MAX, Cluster, connect
from penstock.adapters.runtimes.kubernetes_pods import (
    View,
    ending_of,
    is_over,
    read_job,
    trouble_of,
)
from penstock.kit.ports import Clock, Entropy
from penstock.kit.runtime import (
    ORPHAN_MS,
    Ending,
    Reach,
    Running,
    Task,
    TaskFailed,
    check_task,
    task_content,
)

CLEAR_DEADLINE_MS = 30_000
TAIL_BYTES_MAX = 4096
LOG_BYTES_MAX = 1 << 18
TAIL_LINES_MAX = 2_000
ENDED_MAX = 32
INDEXED_SINCE = (1, 24)

Pods = list[Any]


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """kubeconfig: a file, None for what a pod of the cluster is given. context: "" for its current one.

    look_ms: how often the cluster is asked while something is awaited.
    """

    namespace: str
    kubeconfig: Path | None = None
    context: str = ""
    bounds: forms.PodBounds = field(default_factory=forms.PodBounds)
    orphan_ms: int = ORPHAN_MS
    look_ms: int = 1_000

    @property
    def where(self) -> str:
        return f"{self.kubeconfig or 'the service account'}, namespace {self.namespace}"


class KubernetesRuntime:
    """Implements `kit.runtime.Runtime`. Make it with `open`; `close` leaves the Jobs running.

    The client blocks, so that its calls run in a few threads of ours, each with a deadline.
    """

    def __init__(self, config: KubernetesConfig, *, home: str, client: Any, clock: Clock) -> None:
        self._config = config
        self._home = home
        self._cluster = Cluster(client, namespace=config.namespace, where=config.where, home=home)
        self._clock = clock
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._ended: OrderedDict[str, Ending] = OrderedDict()
        """Of tasks that we stopped: with their pods, their words are gone from the cluster."""

    @classmethod
    async def open(
        cls, home: Path, config: KubernetesConfig, *, clock: Clock, entropy: Entropy
    ) -> "KubernetesRuntime":
        """Greet the cluster. Raises NoCluster, OSError, ValueError."""
        from kubernetes.config import ConfigException

        try:
            client = await asyncio.to_thread(connect, config.kubeconfig, config.context)
        except (ConfigException, OSError) as error:
            raise NoCluster("kubernetes", config.where, str(error)) from error
        runtime = cls(config, home=home_id(home, entropy), client=client, clock=clock)
        try:
            await runtime.beat()
            await runtime._cluster.set_policy(forms.policy_form(runtime._home, config.bounds))
        except NoCluster:
            runtime.close()
            raise
        return runtime

    def close(self) -> None:
        """Let go of the cluster; the Jobs go on until they are orphans."""
        self._cluster.close()

    @property
    def kind(self) -> str:
        return "kubernetes"

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        check_task(task)
        forms.check_cluster_task(task, self._config.bounds)
        content = task_content(task)
        async with self._turns[task.name]:
            try:
                async with asyncio.timeout(deadline_ms / 1000):
                    there = await self._cluster.view(task.name)
                    if there.is_live and there.notes.get(forms.CONTENT_NOTE) == content:
                        return await self._address(task)
                    await self._remove(task.name, grace_ms=task.stop_ms)
                    self._ended.pop(task.name, None)
                    await self._create(task, content)
                    return await self._address(task)
            except TimeoutError as error:
                why = trouble_of((await self._cluster.view(task.name)).pods)
                reason = f"no address after {deadline_ms} ms{why and ': '}{why}."
                raise await self._failed(task.name, reason) from error
            except NoCluster as error:
                raise TaskFailed(name=task.name, reason=str(error)) from error
            except asyncio.CancelledError:
                await self._end(task.name, grace_ms=0, reason="its launch was given up")
                raise

    async def list(self) -> tuple[Running, ...]:
        """Raises NoCluster."""
        running = [read_job(one.job) for one in await self._cluster.views() if one.is_live]
        return tuple(sorted(running, key=lambda one: one.name))

    async def beat(self) -> None:
        """Push the deadline of every Job ahead, by the cluster's own clock. Raises NoCluster."""
        jobs, now = await self._cluster.jobs_now()
        for job in jobs:
            if job.status.start_time is None or is_over(job) or job.metadata.deletion_timestamp:
                continue
            lived_s = int((now - job.status.start_time).total_seconds())
            await self._cluster.patch_job(
                job, {"spec": {"activeDeadlineSeconds": lived_s + self._orphan_s}}
            )

    async def wait(self, name: str) -> Ending:
        """A cluster that does not answer is not the end of a task: we ask until it tells."""
        while True:
            try:
                there = await self._cluster.view(name)
            except NoCluster:
                await self._rest()
                continue
            if not there.is_live:
                return await self._ending(name, there)
            await self._rest()

    async def logs(self, name: str, *, bytes_max: int) -> str:
        """Of a stopped task: the last words before it was stopped. Raises NoCluster."""
        there = await self._cluster.view(name)
        text = await self._tail(there.pods, bytes_max)
        kept = self._ended.get(name)
        return text or (
            kept.log_tail.encode()[-bytes_max:].decode(errors="replace") if kept else ""
        )

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        """Raises NoCluster: the Job goes on then, until it is an orphan."""
        async with self._turns[name]:
            there = await self._cluster.view(name)
            if there.is_live:
                await self._end(name, grace_ms=deadline_ms, reason="it was stopped")

    @property
    def _orphan_s(self) -> int:
        return max(1, -(-self._config.orphan_ms // 1000))

    async def _create(self, task: Task, content: str) -> None:
        """The Job first: the rest is its own, and its pods wait for their Secret. Raises NoCluster."""
        if task.needs.nodes > 1:
            await self._check_indexed(task)
        closed = task.needs.reach is not Reach.HOST
        labels = {
            forms.HOME_LABEL: self._home,
            forms.TASK_LABEL: task.name,
            forms.REACH_LABEL: "closed" if closed else "open",
        }
        notes = {
            forms.CONTENT_NOTE: content,
            forms.STARTED_NOTE: str(self._clock.now_ms()),
        }
        start_s = max(self._orphan_s, ORPHAN_MS // 1000)
        form = forms.job_form(task, labels, notes, orphan_s=start_s, bounds=self._config.bounds)
        job = await self._cluster.create_job(form)
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job.metadata.name,
            "uid": job.metadata.uid,
        }
        await self._cluster.create_secret(forms.secret_form(task, labels, owner))
        if task.needs.nodes > 1:
            await self._cluster.create_service(forms.service_form(labels, owner))

    async def _check_indexed(self, task: Task) -> None:
        known = await self._cluster.version()
        if known < INDEXED_SINCE:
            reason = (
                f"an engine of several nodes needs Kubernetes 1.24, this is {known[0]}.{known[1]}."
            )
            raise TaskFailed(name=task.name, reason=reason, remedy="Use a newer cluster, or ray.")

    async def _address(self, task: Task) -> Running:
        """Wait until it is known where it serves, and note it down. Raises TaskFailed, NoCluster."""
        while True:
            there = await self._cluster.view(task.name)
            if not there.is_live:
                ending = await self._ending(task.name, there)
                raise await self._failed(task.name, f"{ending.reason} before it had an address.")
            if there.notes.get(forms.ADDRESS_NOTE):
                return read_job(there.job)
            said = await self._announcement(there)
            if said is not None and said.error:
                raise await self._failed(task.name, f"{said.error}.")
            if said is not None and there.leader is not None and there.leader.status.pod_ip:
                host = there.leader.status.pod_ip
                address = f"http://{f'[{host}]' if ':' in host else host}:{said.port}"
                note = {"metadata": {"annotations": {forms.ADDRESS_NOTE: address}}}
                await self._cluster.patch_job(there.job, note)
                await self.beat()
                return replace(read_job(there.job), address=address)
            await self._rest()

    async def _announcement(self, there: View) -> Announcement | None:
        leader = there.leader
        if leader is None or not there.has_started:
            return None
        head = await self._cluster.log(leader, limit_bytes=HEAD_BYTES_MAX)
        return announced(head)

    async def _failed(self, name: str, reason: str) -> TaskFailed:
        """End it and say why."""
        await self._end(name, grace_ms=0, reason=reason)
        kept = self._ended.get(name)
        remedy = (
            f"See  kubectl -n {self._config.namespace} describe job -l {forms.TASK_LABEL}={name}"
        )
        return TaskFailed(
            name=name, reason=reason, log_tail=kept.log_tail if kept else "", remedy=remedy
        )

    async def _ending(self, name: str, there: View) -> Ending:
        kept = self._ended.get(name)
        if there.job is None or there.is_going:
            return kept or Ending(None, "there is no such Job.", "")
        ending = ending_of(there)
        return replace(ending, log_tail=await self._tail(there.pods, TAIL_BYTES_MAX))

    async def _end(self, name: str, *, grace_ms: int, reason: str) -> None:
        """Keep its last words, then remove it."""
        there = await self._cluster.view(name)
        if there.job is not None:
            words = await self._tail(there.pods, LOG_BYTES_MAX)
            self._ended[name] = Ending(None, reason, words)
            while len(self._ended) > ENDED_MAX:
                self._ended.popitem(last=False)
            await self._remove(name, grace_ms=grace_ms)

    async def _remove(self, name: str, *, grace_ms: int) -> None:
        """The Job, its pods and what it owns; returns when the pods are gone. Raises NoCluster."""
        there = await self._cluster.view(name)
        if there.job is None:
            return
        await self._cluster.delete(there, grace_s=max(0, grace_ms // 1000))
        async with asyncio.timeout((grace_ms + CLEAR_DEADLINE_MS) / 1000):
            while True:
                there = await self._cluster.view(name)
                if there.job is None and not there.pods:
                    return
                await self._rest()

    async def _tail(self, pods: Pods, bytes_max: int) -> str:
        """The end of what all pods wrote, the first one's last."""
        parts = [await self._cluster.log(pod, tail_lines=TAIL_LINES_MAX) for pod in reversed(pods)]
        return b"".join(parts)[-bytes_max:].decode(errors="replace")

    async def _rest(self) -> None:
        await asyncio.sleep(self._config.look_ms / 1000)

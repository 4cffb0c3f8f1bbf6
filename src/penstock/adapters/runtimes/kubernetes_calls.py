"""The calls of the Kubernetes API that the runtime makes, each in a thread of ours and with a deadline."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from penstock.adapters.runtimes import kubernetes_form as forms
from penstock.adapters.runtimes.errors import NoCluster
from penstock.adapters.runtimes.kubernetes_pods import View, view_of

CONNECT_S = 5
ANSWER_S = 30
HEAD_BYTES_MAX = 1 << 20
THREADS = 8
VERSION = re.compile(r"v(\d+)\.(\d+)\.")

T = TypeVar("T")


class Cluster:
    """One namespace as one home sees it. Every method raises NoCluster; `why` holds the API's words."""

    def __init__(self, client: Any, *, namespace: str, where: str, home: str) -> None:
        from kubernetes.client import BatchV1Api, CoreV1Api, NetworkingV1Api

        self._client = client
        self._jobs = BatchV1Api(client)
        self._core = CoreV1Api(client)
        self._networks = NetworkingV1Api(client)
        self._namespace = namespace
        self._where = where
        self._ours = f"{forms.HOME_LABEL}={home}"
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kubernetes")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def views(self) -> list[View]:
        """Every Job of the home, with its pods."""
        jobs = await self._ask(self._jobs.list_namespaced_job, label_selector=self._ours)
        pods = await self._ask(self._core.list_namespaced_pod, label_selector=self._ours)
        return [view_of(job, pods.items) for job in jobs.items]

    async def view(self, name: str) -> View:
        """The Job of that task and its pods."""
        labels = f"{self._ours},{forms.TASK_LABEL}={name}"
        jobs = await self._ask(self._jobs.list_namespaced_job, label_selector=labels)
        pods = await self._ask(self._core.list_namespaced_pod, label_selector=labels)
        return view_of(jobs.items[0] if jobs.items else None, pods.items)

    async def jobs_now(self) -> tuple[list[Any], datetime]:
        """The Jobs of the home, and the cluster's clock: ours may differ."""
        call = self._jobs.list_namespaced_job_with_http_info
        found, _, headers = await self._ask(call, label_selector=self._ours)
        return found.items, parsedate_to_datetime(headers["Date"])

    async def version(self) -> tuple[int, int]:
        from kubernetes.client import VersionApi

        api = VersionApi(self._client)
        said = await self._call(lambda: api.get_code(_request_timeout=(CONNECT_S, ANSWER_S)))
        match = VERSION.match(said.git_version)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    async def create_job(self, form: forms.Form) -> Any:
        return await self._ask(self._jobs.create_namespaced_job, body=form)

    async def create_secret(self, form: forms.Form) -> None:
        await self._ask(self._core.create_namespaced_secret, body=form)

    async def create_service(self, form: forms.Form) -> None:
        await self._ask(self._core.create_namespaced_service, body=form)

    async def set_policy(self, form: forms.Form) -> None:
        """Make it, or bring the one that is there to this form."""
        try:
            await self._ask(self._networks.create_namespaced_network_policy, body=form)
        except NoCluster as error:
            if status_of(error) != HTTPStatus.CONFLICT:
                raise
            name = form["metadata"]["name"]
            await self._ask(self._networks.patch_namespaced_network_policy, name=name, body=form)

    async def patch_job(self, job: Any, change: forms.Form) -> None:
        """One that has gone meanwhile needs no change."""
        name = job.metadata.name
        await self._unless_gone(self._jobs.patch_namespaced_job, name=name, body=change)

    async def delete(self, view: View, *, grace_s: int) -> None:
        """Ask for the end of the Job, all it owns, and its pods within `grace_s`."""
        name = view.job.metadata.name
        remove = self._jobs.delete_namespaced_job
        await self._unless_gone(remove, name=name, propagation_policy="Background")
        for pod in view.pods:
            name = pod.metadata.name
            remove = self._core.delete_namespaced_pod
            await self._unless_gone(remove, name=name, grace_period_seconds=grace_s)

    async def log(self, pod: Any, **bounds: int) -> bytes:
        """b"" where there is none: a container that did not start, a node that does not answer."""

        def read(**limits: Any) -> bytes:
            reply: Any = self._core.read_namespaced_pod_log(
                container=forms.CONTAINER, _preload_content=False, **limits
            )
            try:
                return bytes(reply.read(HEAD_BYTES_MAX))
            finally:
                reply.release_conn()

        try:
            return bytes(await self._ask(read, name=pod.metadata.name, **bounds))
        except NoCluster as error:
            if status_of(error):
                return b""
            raise

    async def _unless_gone(self, call: Callable[..., Any], **fields: Any) -> None:
        try:
            await self._ask(call, **fields)
        except NoCluster as error:
            if status_of(error) != HTTPStatus.NOT_FOUND:
                raise

    async def _ask(self, call: Callable[..., T], **fields: Any) -> T:
        limits = {"namespace": self._namespace, "_request_timeout": (CONNECT_S, ANSWER_S)}
        return await self._call(lambda: call(**limits, **fields))

    async def _call(self, work: Callable[[], T]) -> T:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ApiException as error:
            why = f"{error.status} {error.reason}: {str(error.body)[:500]}"
            raise NoCluster("kubernetes", self._where, why) from error
        except (HTTPError, OSError) as error:
            raise NoCluster("kubernetes", self._where, str(error)[:500]) from error


def status_of(error: NoCluster) -> int:
    """What the API answered, 0 when it did not."""
    from kubernetes.client import ApiException

    cause = error.__cause__
    return int(cause.status or 0) if isinstance(cause, ApiException) else 0


def connect(kubeconfig: Path | None, context: str) -> Any:
    """A client of the file's context, or of what a pod is given. Raises ConfigException, OSError."""
    import kubernetes.config
    from kubernetes import client

    # The library's own half of its types.
    load: Any = kubernetes.config
    if kubeconfig is None:
        settings = client.Configuration()
        load.load_incluster_config(settings)
        return client.ApiClient(settings)
    return load.new_client_from_config(str(kubeconfig), context=context or None)

"""A Job and its pods as they were at one moment: do they live, how did they end, what keeps them."""

from dataclasses import dataclass
from typing import Any

from penstock.adapters.runtimes import kubernetes_form as forms
from penstock.kit.runtime import Ending, Running

SIGNAL_BASE = 128
DONE = frozenset({"Succeeded", "Failed"})
TEXT_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class View:
    """job: None when there is none. pods: by their index, the leader first."""

    job: Any
    pods: list[Any]

    @property
    def notes(self) -> dict[str, str]:
        return (self.job.metadata.annotations or {}) if self.job is not None else {}

    @property
    def is_going(self) -> bool:
        """Whether it is being removed."""
        return self.job is not None and self.job.metadata.deletion_timestamp is not None

    @property
    def is_live(self) -> bool:
        """The end of one pod is the end of all."""
        if self.job is None or self.is_going or is_over(self.job):
            return False
        return not any(pod.status.phase in DONE for pod in self.pods)

    @property
    def leader(self) -> Any:
        return self.pods[0] if self.pods else None

    @property
    def has_started(self) -> bool:
        state = state_of(self.leader) if self.leader is not None else None
        return state is not None and (state.running is not None or state.terminated is not None)


def view_of(job: Any, pods: list[Any]) -> View:
    if job is None:
        return View(None, pods)
    own = [pod for pod in pods if (pod.metadata.labels or {}).get("job-name") == job.metadata.name]
    return View(job, sorted(own, key=lambda pod: (index_of(pod), pod.metadata.name)))


def index_of(pod: Any) -> int:
    index = (pod.metadata.annotations or {}).get(forms.INDEX_NOTE, "0")
    return int(index) if index.isdecimal() else 0


def read_job(job: Any) -> Running:
    """What its notes say."""
    notes, labels = job.metadata.annotations or {}, job.metadata.labels or {}
    started = notes.get(forms.STARTED_NOTE, "")
    return Running(
        name=labels.get(forms.TASK_LABEL, ""),
        content=notes.get(forms.CONTENT_NOTE, ""),
        address=notes.get(forms.ADDRESS_NOTE, ""),
        started_ms=int(started) if started.isdecimal() else 0,
    )


def is_over(job: Any) -> bool:
    return any(
        one.type in {"Complete", "Failed"} and one.status == "True"
        for one in job.status.conditions or []
    )


def ending_of(view: View) -> Ending:
    """Of a Job that is over, or of whose pods one is. Without its log."""
    for pod in view.pods:
        state = state_of(pod)
        if state is not None and state.terminated is not None:
            return ending_of_pod(pod, state.terminated, alone=len(view.pods) == 1)
        if pod.status.phase == "Failed":
            said = f"{pod.status.reason or 'Failed'}: {pod.status.message or ''}"
            return Ending(None, said[:TEXT_CHARS_MAX], "")
    for one in view.job.status.conditions or []:
        if one.type == "Failed" and one.reason == "DeadlineExceeded":
            return Ending(None, "no agent has asked for it any more", "")
        if one.type == "Failed":
            return Ending(None, f"{one.reason}: {one.message}"[:TEXT_CHARS_MAX], "")
    return Ending(None, "its pods are gone", "")


def ending_of_pod(pod: Any, terminated: Any, *, alone: bool) -> Ending:
    status = int(terminated.exit_code)
    status = SIGNAL_BASE - status if status > SIGNAL_BASE else status
    why = f"it ended with status {status}" if status >= 0 else f"it ended by signal {-status}"
    if terminated.reason == "OOMKilled":
        why = "it was killed for lack of memory"
    elif terminated.reason not in {None, "Error", "Completed"}:
        why = f"{why} ({terminated.reason}: {terminated.message or ''})"
    who = "" if alone else f"rank {index_of(pod)}: "
    return Ending(status, f"{who}{why}"[:TEXT_CHARS_MAX], "")


def state_of(pod: Any) -> Any:
    """The engine container's state, None before it has one."""
    for one in pod.status.container_statuses or []:
        if one.name == forms.CONTAINER:
            return one.state
    return None


def trouble_of(pods: list[Any]) -> str:
    """What keeps a pod from running, in the cluster's words; "" when nothing is known."""
    for pod in pods:
        for one in pod.status.conditions or []:
            if one.type == "PodScheduled" and one.status == "False":
                return str(one.message or one.reason)[:TEXT_CHARS_MAX]
        state = state_of(pod)
        if state is not None and state.waiting is not None:
            waiting = state.waiting
            return f"{waiting.reason} {waiting.message or ''}".strip()[:TEXT_CHARS_MAX]
    return ""

"""What a cluster is told about a task; that it does it, the contract tests on a real control plane show."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.adapters.runtimes import kubernetes_form as forms
from penstock.adapters.runtimes.kubernetes_pods import View, ending_of, trouble_of
from penstock.kit.runtime import Needs, Reach, Task, TaskFailed, check_task

TASK = Task(
    name="engine-1",
    argv=("serve", "--port", "{port}"),
    env={"API_KEY": "secret of the environment"},
    image="registry.example/engine@sha256:00",
    stdin=b"secret of the settings",
    needs=Needs(cpu_milli=1500, memory_bytes=1 << 30, gpus=2),
    stop_ms=2_500,
)
LABELS = {forms.HOME_LABEL: "0123456789abcdef", forms.TASK_LABEL: "engine-1"}
OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "engine-1-x", "uid": "u"}


def job(task: Task = TASK, bounds: forms.PodBounds | None = None) -> dict[str, Any]:
    return forms.job_form(task, LABELS, {}, orphan_s=120, bounds=bounds or forms.PodBounds())


def pod(task: Task = TASK, bounds: forms.PodBounds | None = None) -> dict[str, Any]:
    found: dict[str, Any] = job(task, bounds)["spec"]["template"]["spec"]
    return found


def container(task: Task = TASK, bounds: forms.PodBounds | None = None) -> dict[str, Any]:
    [found] = pod(task, bounds)["containers"]
    assert isinstance(found, dict)
    return found


def test_no_secret_is_in_the_job_and_all_are_in_its_secret() -> None:
    told = json.dumps(job())
    secret = forms.secret_form(TASK, LABELS, OWNER)
    for text in (TASK.stdin, TASK.env["API_KEY"].encode()):
        assert text.decode() not in told
        assert base64.b64encode(text).decode() not in told
        assert base64.b64encode(text).decode() in secret["data"].values()
    assert secret["metadata"]["ownerReferences"] == [OWNER]
    assert secret["immutable"]


def test_a_pod_may_do_nothing_that_engines_do_not_need() -> None:
    told, inside = pod(), container()["securityContext"]
    assert told["automountServiceAccountToken"] is False
    assert told["securityContext"]["runAsNonRoot"] is True
    assert told["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inside["allowPrivilegeEscalation"] is False
    assert inside["readOnlyRootFilesystem"] is True
    assert inside["capabilities"] == {"drop": ["ALL"]}
    assert not any("hostPath" in volume for volume in told["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(told)


def test_nobody_configures_pods_as_root() -> None:
    with pytest.raises(ValueError, match="never run as root"):
        forms.PodBounds(user=0)


def test_it_asks_for_what_it_needs_and_gets_no_more() -> None:
    asked = {"cpu": "1500m", "memory": str(1 << 30), "nvidia.com/gpu": "2"}
    assert container()["resources"] == {"limits": asked, "requests": asked}
    named = forms.PodBounds(gpu_resource="amd.com/gpu", runtime_class="gvisor")
    assert container(TASK, named)["resources"]["limits"]["amd.com/gpu"] == "2"
    assert pod(TASK, named)["runtimeClassName"] == "gvisor"
    assert "runtimeClassName" not in pod()
    assert pod()["terminationGracePeriodSeconds"] == 3


def test_a_program_gets_its_port_and_is_probed_there() -> None:
    told = container()
    assert told["command"][-3:] == ["serve", "--port", str(forms.PORT)]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert told[probe]["tcpSocket"] == {"port": forms.PORT}
    announcing = replace(TASK, argv=("serve",), announces=True)
    assert "livenessProbe" not in container(announcing)


def test_the_end_of_one_pod_is_the_end_of_all() -> None:
    several = replace(TASK, needs=Needs(nodes=3, reach=Reach.HOST))
    told = job(several)["spec"]
    assert (told["completionMode"], told["completions"], told["parallelism"]) == ("Indexed", 3, 3)
    assert told["backoffLimit"] == 0
    assert told["template"]["spec"]["restartPolicy"] == "Never"
    env = {one["name"]: one for one in container(several)["env"]}
    name = job(several)["metadata"]["name"]
    assert env["PENSTOCK_NODES"]["value"] == "3"
    assert env["PENSTOCK_LEADER"]["value"] == f"{name}-0.{name}"
    assert forms.INDEX_NOTE in json.dumps(env["PENSTOCK_RANK"])
    assert pod(several)["subdomain"] == name
    assert "podAntiAffinity" in pod(several)["affinity"]
    service = forms.service_form(LABELS, OWNER)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == LABELS


def test_models_come_from_claims_read_only_unless_they_are_written() -> None:
    bounds = forms.PodBounds(claims=(("/models", "models"), ("/cache", "cache")))
    writing = replace(TASK, readable=(Path("/models/a"),), writable=(Path("/cache/x"),))
    mounts = {one["mountPath"]: one for one in container(writing, bounds)["volumeMounts"]}
    assert mounts["/models"]["readOnly"] is True
    assert mounts["/cache"]["readOnly"] is False
    assert mounts[forms.SETTINGS]["readOnly"] is True


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": ""}, "no container image"),
        ({"needs": Needs(gpu_uuids=("GPU-1",), gpus=1)}, "chooses the GPUs"),
        ({"needs": Needs(nodes=2)}, "must call each other"),
        ({"env": {"no name": "1"}}, "no name of an environment variable"),
        ({"writable": (Path("/elsewhere"),)}, "lies in no claim"),
    ],
)
def test_what_a_cluster_does_not_do_is_refused_by_name(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(TaskFailed, match=reason):
        forms.check_cluster_task(replace(TASK, **fields), forms.PodBounds())


def test_job_names_are_labels_of_one_home_and_one_task() -> None:
    long = "a" * 63
    names = {forms.job_name(home, task) for home in ("h1", "h2") for task in (long, long[:-1], "b")}
    assert len(names) == 6
    for name in names:
        check_task(replace(TASK, name=name))
        assert len(f"{name}-10000") <= 63


def test_closed_pods_call_nobody_and_only_callers_call_them() -> None:
    told = forms.policy_form("h", forms.PodBounds())["spec"]
    assert (told["policyTypes"], told["egress"]) == (["Egress"], [])
    assert told["podSelector"]["matchLabels"][forms.REACH_LABEL] == "closed"
    named = forms.policy_form("h", forms.PodBounds(callers=(("app", "agent"),)))["spec"]
    assert named["policyTypes"] == ["Egress", "Ingress"]
    assert named["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"app": "agent"}}}]


def plain(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**fields)


def told_pod(index: int, *, phase: str = "Running", **state: Any) -> SimpleNamespace:
    states = {"running": None, "waiting": None, "terminated": None, **state}
    return plain(
        metadata=plain(annotations={forms.INDEX_NOTE: str(index)}),
        status=plain(
            phase=phase,
            reason=None,
            message=None,
            conditions=None,
            container_statuses=[plain(name=forms.CONTAINER, state=plain(**states))],
        ),
    )


def over(code: int, reason: str = "Error") -> SimpleNamespace:
    return plain(exit_code=code, reason=reason, message="")


@pytest.mark.parametrize(
    ("terminated", "status", "words"),
    [
        (over(3), 3, "with status 3"),
        (over(137), -9, "by signal 9"),
        (over(137, "OOMKilled"), -9, "lack of memory"),
        (over(128, "StartError"), 128, "StartError"),
        (over(0, "Completed"), 0, "with status 0"),
    ],
)
def test_how_a_pod_ended_is_told_as_of_a_process(
    terminated: SimpleNamespace, status: int, words: str
) -> None:
    ending = ending_of(View(plain(), [told_pod(0, phase="Failed", terminated=terminated)]))
    assert ending.status == status
    assert words in ending.reason


def test_of_several_pods_the_one_that_ended_is_named() -> None:
    pods = [told_pod(0, running=plain()), told_pod(1, phase="Failed", terminated=over(3))]
    assert ending_of(View(plain(), pods)).reason.startswith("rank 1: ")


def test_a_job_that_nobody_cared_for_says_so() -> None:
    late = plain(type="Failed", reason="DeadlineExceeded", message="")
    job = plain(status=plain(conditions=[late]))
    assert "no agent" in ending_of(View(job, [])).reason


def test_what_keeps_a_pod_waiting_is_told_in_the_clusters_words() -> None:
    waiting = plain(reason="ErrImagePull", message="no such image")
    assert (
        trouble_of([told_pod(0, phase="Pending", waiting=waiting)]) == "ErrImagePull no such image"
    )
    assert trouble_of([told_pod(0, running=plain())]) == ""

"""The chart: read by a real Helm where there is one (make chart), held against what it must agree with."""

import json
import os
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.miner.config import Deadlines, MinerConfig, RuntimeKind, TunnelMode, parse_config

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "chart"
HELM = os.environ.get("PENSTOCK_TEST_HELM", "")
HELM_DEADLINE_S = 120
MARKET = {"url": "https://market.example", "network": "local"}
NAMED: dict[str, Any] = {"market": MARKET}
CLUSTER = NAMED | {"runtime": "kubernetes"}

with_helm = pytest.mark.skipif(not HELM, reason="no Helm in PENSTOCK_TEST_HELM: make chart")


def asked(values: Mapping[str, Any]) -> dict[str, Any]:
    """What Helm says of the chart with these values (tests/packages/helm_says.py)."""
    done = subprocess.run(
        [HELM, str(Path(__file__).parent / "helm_says.py"), str(CHART)],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=True,
        timeout=HELM_DEADLINE_S,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def objects(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is installed, by kind."""
    found = asked(values)
    assert found["error"] == ""
    return {one["kind"]: one for one in found["objects"]}


def config_in(made: Mapping[str, Any]) -> MinerConfig:
    return parse_config(made["ConfigMap"]["data"]["miner.json"].encode(), place="miner.json")


def test_it_is_of_this_release() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_the_rights_are_those_that_the_runtime_is_tested_with() -> None:
    rules = yaml.safe_load((CHART / "rules.yaml").read_text())
    documents = yaml.safe_load_all((ROOT / "docs" / "runtimes-kubernetes.yaml").read_text())
    (role,) = [one for one in documents if one["kind"] == "Role"]
    assert rules == role["rules"]
    assert not any("*" in words for rule in rules for words in rule.values())


def test_every_value_is_in_the_schema_and_no_other_is_taken() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    assert set(values) == set(schema["properties"]) - {"global"}
    for name in ("image", "market", "storage"):
        assert set(values[name]) == set(schema["properties"][name]["properties"])
    assert set(schema["properties"]["tunnel"]["enum"]) == {mode.value for mode in TunnelMode}
    assert set(schema["properties"]["runtime"]["enum"]) <= {kind.value for kind in RuntimeKind}


@with_helm
def test_helm_finds_nothing_wrong() -> None:
    assert asked(NAMED)["lint"] == []


@with_helm
@pytest.mark.parametrize("values", [NAMED, CLUSTER])
def test_the_agent_reads_the_configuration_that_it_is_given(values: dict[str, Any]) -> None:
    made = objects(values)
    config = config_in(made)
    assert config.market_url == MARKET["url"]
    assert config.auto
    assert config.tunnel.mode is TunnelMode.ONLY
    assert config.runtime.value == values.get("runtime", "process")
    pod = made["StatefulSet"]["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    mounts = {one["mountPath"] for one in agent["volumeMounts"]}
    assert config.home in mounts
    assert Path(config.key_file).parent == Path(config.home)
    assert agent["command"][-1].startswith("/etc/penstock/")
    assert agent["ports"][0]["containerPort"] == config.port


@with_helm
@pytest.mark.parametrize("values", [NAMED, CLUSTER])
def test_its_pods_are_as_closed_as_the_strictest_standard_asks(values: dict[str, Any]) -> None:
    made = objects(values)
    pod = made["StatefulSet"]["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65_532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert agent["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert made["NetworkPolicy"]["spec"]["ingress"] == []


@with_helm
def test_stopping_a_pod_leaves_time_for_a_drain() -> None:
    pod = objects(NAMED)["StatefulSet"]["spec"]["template"]["spec"]
    deadlines = Deadlines()
    drain_ms = deadlines.drain_ms + 2 * deadlines.peer_ms + deadlines.ledger_ms
    wanted_ms = drain_ms + deadlines.engine_stop_ms
    assert pod["terminationGracePeriodSeconds"] * 1000 > wanted_ms


@with_helm
def test_an_agent_has_rights_in_the_cluster_only_where_it_needs_them() -> None:
    plain, cluster = objects(NAMED), objects(CLUSTER)
    assert "Role" not in plain
    assert plain["StatefulSet"]["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    assert cluster["Role"]["rules"] == yaml.safe_load((CHART / "rules.yaml").read_text())
    (subject,) = cluster["RoleBinding"]["subjects"]
    account = cluster["ServiceAccount"]["metadata"]["name"]
    assert (subject["name"], subject["namespace"]) == (account, "engines")
    pod = cluster["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account
    assert pod["automountServiceAccountToken"] is True


@with_helm
def test_engines_of_a_cluster_have_images_and_are_called_by_their_agent_alone() -> None:
    vllm = "vllm/vllm-openai@sha256:" + "0" * 64
    claims = {"/models": "models"}
    made = objects(CLUSTER | {"images": {"vllm": vllm}, "claims": claims})
    config = config_in(made)
    template = made["StatefulSet"]["spec"]["template"]
    assert config.image("vllm") == vllm
    assert config.image("llamacpp") == template["spec"]["containers"][0]["image"]
    assert config.kubernetes.namespace == "engines"
    assert config.kubernetes.claims == claims
    assert config.kubernetes.callers.items() <= template["metadata"]["labels"].items()
    mounted = [one["mountPath"] for one in template["spec"]["containers"][0]["volumeMounts"]]
    assert "/models" in mounted


@with_helm
def test_settings_of_ones_own_beat_the_charts() -> None:
    made = objects(NAMED | {"settings": {"engine_threads": 7, "weights": {"share": True}}})
    config = config_in(made)
    assert config.engine_threads == 7
    assert config.weights.share
    assert config.weights.quota_bytes == 200 << 30


@with_helm
def test_an_image_may_be_named_by_digest() -> None:
    digest = "sha256:" + "a" * 64
    made = objects(NAMED | {"image": {"repository": "r.example/p", "digest": digest}})
    (agent,) = made["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert agent["image"] == f"r.example/p@{digest}"


@with_helm
@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, "market"),
        ({"market": {"url": "market", "network": "local"}}, "market"),
        (NAMED | {"runtime": "abacus"}, "runtime"),
        (NAMED | {"nodez": 2}, "nodez"),
        (CLUSTER | {"nodes": 2}, "nodes"),
        (NAMED | {"image": {"repository": "p", "digest": "latest"}}, "digest"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], word: str) -> None:
    found = asked(values)
    assert word in found["error"]
    assert found["objects"] == []

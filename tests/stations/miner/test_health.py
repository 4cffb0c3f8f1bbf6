"""What a miner shows of its owner's other nodes, whatever the market says."""

from typing import Any

import pytest
from tests.makers import MANIFEST

from penstock.kit.engine import EngineStats
from penstock.kit.metrics import Metrics
from penstock.miner.budget import Share
from penstock.miner.health import NODES_MAX, gauge_instances, instance_health, read_nodes
from penstock.miner.instance import Instance

OFFERED = {"instance": "n-1", "name": "tiny-chat", "room": 3, "hardware": "cpu", "price": {}}


def nodes(*miners: Any) -> tuple[dict[str, Any], ...]:
    return read_nodes({"miners": list(miners)}, owner="owner", miner="me")


def test_the_owners_other_nodes_are_shown_and_nobody_elses() -> None:
    found = nodes(
        {"miner": "me", "owner": "owner", "instances": [OFFERED]},
        {"miner": "n", "owner": "owner", "instances": [OFFERED]},
        {"miner": "x", "owner": "stranger", "instances": [OFFERED]},
    )
    shown = {key: OFFERED[key] for key in ("instance", "name", "room", "hardware")}
    assert found == ({"miner": "n", "instances": [shown]},)


@pytest.mark.parametrize(
    "said",
    [{}, {"miners": 7}, {"miners": [None, 1, "x", {}]}, {"miners": [{"owner": "stranger"}]}],
)
def test_nonsense_shows_nothing(said: dict[str, Any]) -> None:
    assert read_nodes(said, owner="owner", miner="me") == ()


def test_odd_instances_are_left_out_and_many_nodes_are_cut() -> None:
    odd = {"miner": "n", "owner": "owner", "instances": [1, None, "x"]}
    assert nodes(odd) == ({"miner": "n", "instances": []},)
    assert nodes({"miner": "n", "owner": "owner", "instances": 5}) == nodes(odd)
    many = [{"miner": f"n-{n}", "owner": "owner", "instances": []} for n in range(NODES_MAX + 9)]
    assert len(nodes(*many)) == NODES_MAX


def test_what_an_engine_says_of_itself_is_shown_and_measured() -> None:
    instance = Instance("m-1-0a", "c", MANIFEST, auto=True, share=Share(("cpu",), 5))
    assert instance_health(instance)["engine"] is None
    instance.looked(EngineStats(2, 1, ready=True, kv_used_ppm=9, cached_tokens=70))
    shown = instance_health(instance)["engine"]
    assert (shown["running"], shown["waiting"], shown["cached_tokens"]) == (2, 1, 70)
    metrics = Metrics()
    gauge_instances(metrics, [instance])
    page = metrics.render().decode()
    assert 'miner_engine_kv_used_ppm{instance="m-1-0a"} 9' in page
    assert 'miner_engine_ready{instance="m-1-0a"} 1' in page

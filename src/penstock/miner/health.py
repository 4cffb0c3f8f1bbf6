"""What `/health` says of instances, cards and the other nodes of one miner identity."""

from collections.abc import Iterable, Mapping
from typing import Any

from penstock.kit.metrics import Metrics
from penstock.miner.budget import Memory, taken_bytes
from penstock.miner.instance import Instance

NODES_MAX = 256


def instance_health(one: Instance) -> dict[str, Any]:
    """One instance: what it is, where it stands, and why it does not serve if it does not."""
    return {
        "instance": one.name,
        "chute": one.chute,
        "name": one.manifest.name,
        "state": one.state.value,
        "running": one.running,
        "room": one.room,
        "auto": one.auto,
        "why": one.why or one.refused or one.trouble,
        "offered": bool(one.seq),
        "hardware": one.hardware,
        "slots": list(one.share.slots),
        "memory_bytes": one.share.bytes_each * len(one.share.slots),
        "engine": engine_health(one),
    }


def engine_health(one: Instance) -> dict[str, Any] | None:
    """What the engine said of itself at the last look."""
    stats = one.stats
    if stats is None:
        return None
    return {
        "running": stats.running,
        "waiting": stats.waiting,
        "ready": stats.ready,
        "kv_used_ppm": stats.kv_used_ppm,
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "generated_tokens": stats.generated_tokens,
        "preempted": stats.preempted,
    }


def gauge_instances(metrics: Metrics, instances: Iterable[Instance]) -> None:
    """What `/metrics` says of them, with what their engines say of themselves."""
    for one in instances:
        metrics.gauge("miner_running", one.running, instance=one.name)
        metrics.gauge("miner_room", one.room, instance=one.name)
        for name, value in (engine_health(one) or {}).items():
            metrics.gauge(f"miner_engine_{name}", int(value), instance=one.name)


def slots_health(memory: Memory) -> list[dict[str, Any]]:
    """Cards and processor, and how much of each is given away."""
    taken = taken_bytes(memory.shares)
    return [
        {
            "slot": slot.name,
            "class": slot.kind,
            "device": slot.device,
            "memory_bytes": slot.memory_bytes,
            "reserved_bytes": taken.get(slot.name, 0),
        }
        for slot in memory.slots
    ]


def read_nodes(miners: Mapping[str, Any], *, owner: str, miner: str) -> tuple[dict[str, Any], ...]:
    """The other nodes of this owner, from the market's `/v1/miners`: what they offer now.

    Strangers may stand behind an owner only with his delegation, so the market's word is enough.
    """
    listed = miners.get("miners")
    nodes: list[dict[str, Any]] = []
    for one in listed if isinstance(listed, list) else ():
        if not isinstance(one, dict) or one.get("owner") != owner or one.get("miner") == miner:
            continue
        instances = one.get("instances")
        nodes.append(
            {
                "miner": one.get("miner"),
                "instances": [
                    {key: offered.get(key) for key in ("instance", "name", "room", "hardware")}
                    for offered in (instances if isinstance(instances, list) else ())
                    if isinstance(offered, dict)
                ],
            }
        )
    return tuple(nodes[:NODES_MAX])

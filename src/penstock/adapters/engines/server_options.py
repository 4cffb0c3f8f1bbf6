"""What the owner of a machine may say about big engines, in the environment that engines get.

| name | means |
|---|---|
| `PENSTOCK_VLLM_PYTHON`, `PENSTOCK_SGLANG_PYTHON` | the Python that has it; default: the miner's |
| `PENSTOCK_ENGINE_REACH` | `own` (default; needs bubblewrap) or `host`: whose loopback it talks on |
| `PENSTOCK_ENGINE_SLEEP=1` | let it sleep and wake, for several chutes on one card |
| `PENSTOCK_ENGINE_LORA_RANK=N` | take LoRA adapters up to this rank while it runs |
| `PENSTOCK_ENGINE_EXACT=1` | the same answer whatever else is in the batch, for some of the speed |
| `PENSTOCK_ENGINE_EAGER=1` | no compiled graphs: starts sooner, runs slower |
| `PENSTOCK_ENGINE_CACHE_GIB=N` | the prefix cache of an engine on the processor |
"""

import hmac
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.kit.engine import EngineFailed
from penstock.kit.runtime import Reach

PREFIX = "PENSTOCK_"
KEY_DOMAIN = b"penstock engine key "


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Read once; `env` is what is left for the engine. Paths are absolute."""

    python: str
    reach: Reach
    env: Mapping[str, str]
    can_sleep: bool = False
    lora_rank_max: int = 0
    is_exact: bool = False
    is_eager: bool = False
    cache_gib: int = 1


@dataclass(frozen=True, slots=True)
class ServerGround:
    """What big engines find on this machine. env: the miner's for its engines. key: what their own keys
    are made of, b"" for none. cache: a folder for what they compile.
    """

    env: Mapping[str, str]
    key: bytes
    cache: Path


def read_options(engine: str, env: Mapping[str, str]) -> ServerOptions:
    """`engine` as in its Python's name. Raises EngineFailed for a value that means nothing."""
    given = {name: value for name, value in env.items() if name.startswith(PREFIX)}
    try:
        return ServerOptions(
            python=given.get(f"PENSTOCK_{engine}_PYTHON", sys.executable),
            reach=Reach(given.get("PENSTOCK_ENGINE_REACH", "own")),
            # A home of its own is the runtime's to give.
            env={name: env[name] for name in env.keys() - given.keys() - {"HOME"}},
            can_sleep=given.get("PENSTOCK_ENGINE_SLEEP") == "1",
            lora_rank_max=int(given.get("PENSTOCK_ENGINE_LORA_RANK", "0")),
            is_exact=given.get("PENSTOCK_ENGINE_EXACT") == "1",
            is_eager=given.get("PENSTOCK_ENGINE_EAGER") == "1",
            cache_gib=int(given.get("PENSTOCK_ENGINE_CACHE_GIB", "1")),
        )
    except ValueError as error:
        raise EngineFailed(
            reason=f"The miner's engine_env cannot be used: {error}.",
            log_tail="",
            remedy="Correct it; docs/engines.md lists the names and values.",
        ) from error


def engine_key(key: bytes, name: str) -> str:
    """The key of one engine: the same in every life of the agent, or it could not be taken over."""
    return hmac.new(key, KEY_DOMAIN + name.encode(), "sha256").hexdigest() if key else ""


def python_paths(python: str) -> tuple[Path, ...]:
    """Where a Python and its packages are: its environment, and the installation that it rests on."""
    program = Path(python)
    return tuple(dict.fromkeys((program.parent.parent, program.resolve().parent.parent)))

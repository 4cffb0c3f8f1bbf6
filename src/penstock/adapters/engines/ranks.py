"""The command line of an engine on several machines: one task, started once on each.

The runtime says in the environment which of them a process is: PENSTOCK_RANK from 0, PENSTOCK_NODES, and
PENSTOCK_LEADER, the address of rank 0. No shell is there to put them into the arguments, so a few lines
of Python do, which then become the engine.
"""

from penstock.kit.engine import EngineLimits

BOOT = """\
import os, runpy, sys
module, others, *words = sys.argv[1:]
rank = os.environ.get("PENSTOCK_RANK", "0")
known = {"{rank}": rank, "{nodes}": os.environ.get("PENSTOCK_NODES", "1")}
known["{leader}"] = os.environ.get("PENSTOCK_LEADER", "127.0.0.1")
for name, value in known.items():
    words = [word.replace(name, value) for word in words]
sys.argv = [module, *words, *([others] if rank != "0" and others else [])]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def command(
    python: str, module: str, words: tuple[str, ...], *, limits: EngineLimits, others: str = ""
) -> tuple[str, ...]:
    """The whole command. `{rank}`, `{nodes}` and `{leader}` in `words` are filled in on each machine;
    all but the first get the flag `others` too.
    """
    if limits.nodes == 1:
        return (python, "-m", module, *words)
    return (python, "-c", BOOT, module, others, *words)


def host(limits: EngineLimits) -> str:
    """Where to listen: a group's leader is called from other machines."""
    return "127.0.0.1" if limits.nodes == 1 else "0.0.0.0"  # noqa: S104 - see above

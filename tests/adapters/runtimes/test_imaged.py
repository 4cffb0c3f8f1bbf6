"""Tasks are given the image of their engine's kind; everything else goes to the runtime below."""

import sys
from dataclasses import dataclass, field

import pytest

from penstock.adapters.runtimes.imaged import PYTHON, Imaged
from penstock.kit.runtime import Ending, Needs, Running, Task, task_content

IMAGE = "registry.example/penstock@sha256:" + "ab" * 32
WORKER = Task(
    name="m-1-0a",
    argv=(sys.executable, "-m", "penstock.adapters.engines.llamacpp_worker"),
    env={"OMP_NUM_THREADS": "2"},
    stdin=b"{}\n",
    needs=Needs(gpus=1, gpu_uuids=("GPU-1",)),
    announces=True,
)


@dataclass
class Below:
    """Implements kit.runtime.Runtime; remembers what it is asked."""

    kind: str = "docker"
    launched: list[Task] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        self.launched.append(task)
        return Running(task.name, task_content(task), "http://127.0.0.1:1", deadline_ms)

    async def list(self) -> tuple[Running, ...]:
        self.asked.append(("list",))
        return (Running("m-1-0a", "c", "", 0),)

    async def beat(self) -> None:
        self.asked.append(("beat",))

    async def wait(self, name: str) -> Ending:
        self.asked.append(("wait", name))
        return Ending(0, "it ended", "")

    async def logs(self, name: str, *, bytes_max: int) -> str:
        self.asked.append(("logs", name))
        return "x" * bytes_max

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        self.asked.append(("stop", name, str(deadline_ms)))


async def launched(below: Below, task: Task) -> Task:
    await Imaged(below, IMAGE).launch(task, deadline_ms=5)
    return below.launched[-1]


async def test_our_workers_run_by_the_interpreter_of_the_image() -> None:
    task = await launched(Below(), WORKER)
    assert task.image == IMAGE
    assert task.argv == (PYTHON, *WORKER.argv[1:])
    assert (task.env, task.stdin, task.needs) == (WORKER.env, WORKER.stdin, WORKER.needs)


async def test_other_programs_and_images_that_an_engine_names_stay() -> None:
    own = Task(name="m-2-0a", argv=("vllm", "serve", "{port}"), env={}, image="own@sha256:00")
    assert await launched(Below(), own) == own


async def test_a_cluster_is_told_how_many_cards_and_not_which() -> None:
    task = await launched(Below("kubernetes"), WORKER)
    assert task.needs == Needs(gpus=1)


async def test_the_same_task_is_the_same_in_the_next_life() -> None:
    first, second = [await launched(Below(), WORKER) for _ in range(2)]
    assert task_content(first) == task_content(second)
    other = Imaged(Below(), "another").dressed(WORKER)
    assert task_content(other) != task_content(first), "a new image is a new engine"


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
async def test_everything_else_is_asked_of_the_runtime_below(kind: str) -> None:
    below = Below(kind)
    runtime = Imaged(below, IMAGE)
    assert runtime.kind == kind
    assert [one.name for one in await runtime.list()] == ["m-1-0a"]
    await runtime.beat()
    assert (await runtime.wait("m")).status == 0
    assert await runtime.logs("m", bytes_max=3) == "xxx"
    await runtime.stop("m", deadline_ms=7)
    assert below.asked == [("list",), ("beat",), ("wait", "m"), ("logs", "m"), ("stop", "m", "7")]

"""Lines of engines that do not start, as they really write them, and what is made of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.engines.fatal import KNOWN, find_fatal
from penstock.adapters.engines.task_name import task_name
from penstock.kit.runtime import Task, check_task

SURE = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB.", "shorter context"),
    (
        (
            "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 "
            "GiB KV cache is needed, which is larger than the available KV cache memory (5.01 GiB)."
        ),
        "shorter context",
    ),
    ("ValueError: No available memory for the cache blocks.", "shorter context"),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "card"),
    ("RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", "driver"),
    ("/usr/bin/python: No module named vllm", "engine_env"),
    ("ModuleNotFoundError: No module named 'xllamacpp'", "pip install 'penstock[miner]'"),
    ("RuntimeError: Engine core initialization failed. See root cause above.", "lines before it"),
]
ONLY_AFTERWARDS = [
    ("OSError: /m does not appear to have a file named config.json.", "fetched again"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/m/x.safetensors'", "fetched again"),
    ("ValueError: ... please set `trust_remote_code=True`", "no miner does"),
    ("ValueError: Model architectures ['X'] are not supported for now.", "newer"),
    ("OSError: [Errno 98] Address already in use", "Another program"),
    ("torch.distributed.DistBackendError: NCCL error in: x.cpp", "cards cannot talk"),
]


@pytest.mark.parametrize(("line", "remedy"), SURE)
def test_what_surely_never_starts_is_known_while_it_runs(line: str, remedy: str) -> None:
    found = find_fatal(f"INFO all is well\n  {line}\nINFO later\n", sure_only=True)
    assert found is not None
    assert found.line == line[:300]
    assert remedy in found.meaning.remedy


@pytest.mark.parametrize(("line", "remedy"), ONLY_AFTERWARDS)
def test_what_may_be_a_warning_only_explains_an_end(line: str, remedy: str) -> None:
    assert find_fatal(line, sure_only=True) is None
    found = find_fatal(line, sure_only=False)
    assert found is not None
    assert remedy in found.meaning.remedy


def test_the_cause_comes_before_what_it_brought_about() -> None:
    log = f"{SURE[-1][0]}\n{SURE[0][0]}"
    found = find_fatal(log, sure_only=True)
    assert found is not None
    assert "OutOfMemory" in found.line


@pytest.mark.parametrize(
    "line",
    [
        "INFO 11-22 19:24:56 [launcher.py:195] Route: /load, Methods: GET",
        "WARNING Triton is installed, but doesn't include CPU backend. Disabling Triton.",
        "INFO Available KV cache memory: 12.4 GiB",
        "",
    ],
)
def test_what_engines_say_every_day_is_no_end(line: str) -> None:
    assert find_fatal(line, sure_only=False) is None


def test_every_line_has_a_remedy_that_is_a_sentence() -> None:
    assert all(known.remedy.rstrip().endswith((".", ")", "1")) for known in KNOWN)


@given(st.text(max_size=200))
def test_every_name_becomes_one_that_a_runtime_takes(name: str) -> None:
    label = task_name(name)
    check_task(Task(name=label, argv=("x", "{port}"), env={}))
    assert task_name(label) == label


@pytest.mark.parametrize(
    ("one", "other"), [("a.b", "a-b"), ("A", "a"), ("x" * 64, "x" * 65), ("\u00e9", "\u00e8")]
)
def test_names_that_look_alike_stay_apart(one: str, other: str) -> None:
    assert task_name(one) != task_name(other)

"""The benches run and say what they measured in the promised shape; nothing here is timed."""

import json
import re
import subprocess
import sys
from asyncio import Transport
from pathlib import Path

import pytest
from bench.cpu import cpu_ms
from bench.figures import Figure, spelled, table, write
from bench.load import Lane
from bench.run import BENCHES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "bench.md"
SMOKE = ("costs", "intake")
DEADLINE_S = 240


def test_the_page_names_every_bench() -> None:
    text = PAGE.read_text()
    assert [name for name in BENCHES if f"| `{name}` |" not in text] == []


def test_the_page_names_every_bench_with_a_command_of_its_own() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^bench-([a-z]+):", makefile, re.MULTILINE)
    assert {"gateway", "routing"} <= set(targets)
    text = PAGE.read_text()
    for name in targets:
        assert f"| `{name}` | `make bench-{name}` |" in text
    for command in re.findall(r"python -m (bench\.\w+)", text):
        assert (ROOT / f"{command.replace('.', '/')}.py").is_file()


def test_quick_benches_run_and_write_figures(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "bench/run.py", "--quick", "--out", str(tmp_path), *SMOKE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in SMOKE:
        assert f"## {name}" in done.stdout
        rows = json.loads((tmp_path / f"{name}.json").read_text())
        assert rows
        for one in rows:
            assert list(one) == ["target", "metric", "unit", "value"]
            assert all(type(one[field]) is str for field in ("target", "metric", "unit"))
            assert one["value"] >= 0


def test_a_bench_that_does_not_exist_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "bench/run.py", "nonsense"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no bench 'nonsense'" in done.stderr


def test_a_table_has_a_row_a_target_and_leaves_unknown_cells_empty() -> None:
    figures = [Figure("bare", "rate", "1/s", 1234.5), Figure("market", "CPU", "ms", 0.1234)]
    lines = table(figures).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "target",
        "rate (1/s)",
        "CPU (ms)",
    ]
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["bare", "1234", ""]
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["market", "", "0.123"]


def test_figures_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    figures = [Figure("bare", "rate", "1/s", 1.5)]
    read = json.loads(write("one", figures, folder=tmp_path / "new").read_text())
    assert [Figure(**one) for one in read] == figures


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (7.0, "7"), (1.2345, "1.23"), (123.4, "123")]
)
def test_numbers_are_spelled_in_three_digits(value: float, text: str) -> None:
    assert spelled(value) == text


def test_cpu_of_a_process_counts_and_of_none_is_zero() -> None:
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    done.wait(DEADLINE_S)
    assert cpu_ms(done.pid) == 0
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        while cpu_ms(busy.pid) == 0:
            pass
        busy.kill()


async def asked(*parts: bytes) -> Lane:
    """A lane that was asked and then heard these parts."""
    lane = Lane()
    lane.connection_made(Transport())
    for part in parts:
        lane.data_received(part)
    return lane


async def test_the_end_of_a_head_is_not_the_end_of_a_chunked_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: max=100\r\n\r\n"
    assert not (await asked(head)).done.done()
    assert not (await asked(head, b"6\r\ndata: \r\n")).done.done()
    assert (await asked(head, b"6\r\ndata: \r\n", b"0\r\n", b"\r\n")).done.done()


async def test_a_whole_answer_ends_with_its_last_byte() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    assert not (await asked(head, b"ab")).done.done()
    lane = await asked(head[:20], head[20:] + b"a", b"bc")
    assert lane.done.done()
    assert lane.reads == 3

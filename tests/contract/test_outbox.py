"""One contract for the miner's outbox: the file and the simulator's memory keep the same promises."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.adapters.outbox_file import OutboxFile, OutboxInUse
from penstock.kit.ports import DiskFull
from penstock.miner.store import OutboxStore
from penstock.sim.stores_miner import MemoryOutbox

Reopen = Callable[[bytes], OutboxStore]
"""Give the store a torn tail as a power cut would leave it, and open it again."""

WRITER = """
import sys, asyncio
from pathlib import Path
from penstock.adapters.outbox_file import OutboxFile
store = OutboxFile(Path(sys.argv[1]))
for number in range(1000):
    store.append(b"line %d" % number)
print("written", flush=True)
sys.stdin.read()
"""


class FileBox:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "outbox.jsonl"
        self.store = OutboxFile(self.path)

    def reopen(self, torn: bytes) -> OutboxStore:
        self.store.close()
        with self.path.open("ab") as file:
            file.write(torn)
        self.store = OutboxFile(self.path)
        return self.store


class MemoryBox:
    def __init__(self, _folder: Path) -> None:
        self.store = MemoryOutbox()

    def reopen(self, torn: bytes) -> OutboxStore:
        self.store._data += torn
        return self.store


Box = FileBox | MemoryBox


@pytest.fixture(params=[FileBox, MemoryBox])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    made: Box = request.param(tmp_path)
    return made


def test_a_new_store_is_empty(box: Box) -> None:
    assert box.store.load() == []


async def test_lines_come_back_in_order(box: Box) -> None:
    lines = [b"one", b"", b'{"two":2}']
    for line in lines:
        box.store.append(line)
    await box.store.sync()
    assert box.store.load() == lines
    assert box.reopen(b"").load() == lines


def test_a_torn_last_line_is_dropped_and_the_next_one_does_not_grow_onto_it(box: Box) -> None:
    box.store.append(b"whole")
    store = box.reopen(b'{"order": {"bo')
    assert store.load() == [b"whole"]
    store.append(b"next")
    assert store.load() == [b"whole", b"next"]
    assert box.reopen(b"").load() == [b"whole", b"next"]


async def test_replace_puts_these_lines_instead_of_all(box: Box) -> None:
    for number in range(5):
        box.store.append(b"old %d" % number)
    box.store.replace([b"kept", b"too"])
    box.store.append(b"new")
    await box.store.sync()
    assert box.store.load() == [b"kept", b"too", b"new"]
    assert box.reopen(b"").load() == [b"kept", b"too", b"new"]


async def test_a_power_cut_takes_only_what_was_not_synced() -> None:
    store = MemoryOutbox()
    store.append(b"synced")
    await store.sync()
    store.append(b"lost")
    store.cut_power(torn_bytes=2)
    assert store.load() == [b"synced"]


def test_a_full_memory_refuses_and_keeps_what_it_had() -> None:
    store = MemoryOutbox(bytes_max=10)
    store.append(b"12345")
    with pytest.raises(DiskFull):
        store.append(b"12345")
    with pytest.raises(DiskFull):
        store.replace([b"1" * 20])
    assert store.load() == [b"12345"]


def test_a_full_disk_is_told_as_such_and_leaves_whole_lines(tmp_path: Path) -> None:
    """The kernel's file size limit plays the full disk, in a process of its own."""
    script = """
import resource, signal, sys
from pathlib import Path
from penstock.adapters.outbox_file import OutboxFile
from penstock.kit.ports import DiskFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = OutboxFile(Path(sys.argv[1]))
store.append(b"a" * 50)
resource.setrlimit(resource.RLIMIT_FSIZE, (80, 80))
try:
    store.append(b"b" * 50)
except DiskFull:
    print(len(store.load()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "outbox")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "1", done.stderr


def test_what_was_appended_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "outbox.jsonl"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdin is not None
    with writer:
        assert writer.stdout.readline() == b"written\n"
        os.kill(writer.pid, signal.SIGKILL)
    store = OutboxFile(path)
    assert store.load() == [b"line %d" % number for number in range(1000)]
    store.close()


def test_a_file_has_one_owner(tmp_path: Path) -> None:
    store = OutboxFile(tmp_path / "outbox.jsonl")
    with pytest.raises(OutboxInUse) as caught:
        OutboxFile(tmp_path / "outbox.jsonl")
    assert "another miner" in str(caught.value)
    store.close()
    OutboxFile(tmp_path / "outbox.jsonl").close()


def test_the_file_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    store = OutboxFile(tmp_path / "outbox.jsonl")
    store.replace([b"a"])
    assert (tmp_path / "outbox.jsonl").stat().st_mode & 0o077 == 0
    store.close()

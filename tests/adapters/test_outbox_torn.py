"""The miner's outbox file, cut at every byte and broken in every way a disk can break it."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.outbox_file import OutboxFile
from penstock.kit.ports import DiskFull
from penstock.sim.stores_miner import MemoryOutbox

LINES = [b'{"order":1}', b"", b"\xff\x00\xfe", b'{"order":{"body":"' + b"x" * 20 + b'"}}', b"last"]
WHOLE = b"".join(line + b"\n" for line in LINES)


def reopened(path: Path, data: bytes) -> list[bytes]:
    """What a miner finds in a file of these bytes, and after adding one line to it."""
    path.write_bytes(data)
    store = OutboxFile(path)
    found = store.load()
    store.append(b"added")
    assert store.load() == [*found, b"added"]
    store.close()
    return found


def test_a_file_cut_at_any_byte_holds_every_line_that_was_whole(tmp_path: Path) -> None:
    for cut in range(len(WHOLE) + 1):
        data = WHOLE[:cut]
        expected = LINES[: data.count(b"\n")]
        assert reopened(tmp_path / "outbox", data) == expected, cut


@given(data=st.binary(max_size=200), cut=st.integers(0, 200))
def test_any_bytes_are_read_alike_by_the_file_and_by_the_memory(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int
) -> None:
    memory = MemoryOutbox()
    memory._data += data[:cut]
    path = tmp_path_factory.mktemp("outbox") / "outbox"
    assert reopened(path, data[:cut]) == memory.load()


def test_a_file_that_was_never_synced_and_is_empty_again_is_an_empty_outbox(tmp_path: Path) -> None:
    assert reopened(tmp_path / "outbox", b"") == []


def test_what_an_interrupted_replace_left_beside_the_file_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    (tmp_path / "outbox.new").write_bytes(b"half a new fi")
    assert reopened(path, WHOLE) == LINES
    store = OutboxFile(path)
    store.replace([b"one"])
    assert store.load() == [b"one"]
    assert not (tmp_path / "outbox.new").exists()
    store.close()


def test_a_replace_that_cannot_be_written_leaves_the_old_lines(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    path.write_bytes(WHOLE)
    store = OutboxFile(path)
    # A folder where the new file should be made: the disk refuses before anything is lost.
    (tmp_path / "outbox.new").mkdir()
    with pytest.raises(OSError, match=r"outbox\.new") as refused:
        store.replace([b"one"])
    assert refused.value.errno in {errno.EISDIR, errno.EEXIST, errno.EPERM}
    assert store.load() == LINES
    store.append(b"more")
    assert store.load() == [*LINES, b"more"]
    store.close()


def test_a_symbolic_link_planted_as_the_new_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "outbox.new").symlink_to(victim)
    store = OutboxFile(tmp_path / "outbox")
    with pytest.raises(OSError, match="symbolic links"):
        store.replace([b"one"])
    assert victim.read_text() == "precious"
    store.close()


async def test_a_replace_during_a_sync_harms_neither(tmp_path: Path) -> None:
    store = OutboxFile(tmp_path / "outbox")
    for number in range(50):
        store.append(b"line %d" % number)
        syncing = asyncio.ensure_future(store.sync())
        await asyncio.sleep(0)
        if not number % 10:
            store.replace([b"kept %d" % number])
        await syncing
    lines = store.load()
    assert lines[0] == b"kept 40"
    assert lines[1:] == [b"line %d" % number for number in range(41, 50)]
    store.close()


def test_a_line_with_a_line_end_is_a_bug_and_writes_nothing(tmp_path: Path) -> None:
    store = OutboxFile(tmp_path / "outbox")
    with pytest.raises(AssertionError):
        store.append(b"two\nlines")
    assert store.load() == []
    store.close()


def test_its_file_and_lock_can_be_read_by_the_owner_only(tmp_path: Path) -> None:
    store = OutboxFile(tmp_path / "deep" / "er" / "outbox")
    store.append(b"secret")
    modes = {
        entry.name: stat.S_IMODE(entry.stat().st_mode)
        for entry in (tmp_path / "deep" / "er").iterdir()
    }
    assert modes == {"outbox": 0o600, "outbox.lock": 0o600}
    store.close()


@pytest.mark.parametrize("verb", ["append", "replace"])
def test_a_disk_full_at_any_byte_leaves_whole_lines_only(verb: str, tmp_path: Path) -> None:
    """The kernel's file size limit plays a disk that has room for one byte more each time."""
    script = """
import resource, signal, sys
from pathlib import Path
from penstock.adapters.outbox_file import OutboxFile
from penstock.kit.ports import DiskFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
verb, folder = sys.argv[1], Path(sys.argv[2])
for room in range(10, 44):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store = OutboxFile(folder / str(room))
    store.append(b"a" * 9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        if verb == "append":
            store.append(b"b" * 31)
        else:
            store.replace([b"b" * 31, b"c" * 8])
        state = "kept"
    except DiskFull:
        state = "full"
    print(room, state, *(len(line) for line in store.load()))
    store.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, verb, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    needed, kept = (42, ["9", "31"]) if verb == "append" else (41, ["31", "8"])
    assert [int(line[0]) for line in told] == list(range(10, 44))
    for room, state, *lengths in told:
        is_room = int(room) >= needed
        assert (state, lengths) == (("kept", kept) if is_room else ("full", ["9"])), room


def test_an_error_that_is_no_full_disk_is_not_called_one(tmp_path: Path) -> None:
    store = OutboxFile(tmp_path / "outbox")
    store.append(b"first")
    os.close(store._file)
    store._file = os.open(tmp_path / "outbox", os.O_RDONLY)
    with pytest.raises(OSError) as refused:
        store.append(b"second")
    assert not isinstance(refused.value, DiskFull)
    assert store.load() == [b"first"]
    store.close()

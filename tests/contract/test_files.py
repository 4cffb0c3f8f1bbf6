"""One contract for published files, kept by the folder on disk and by the one in memory."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.files import FolderFiles
from penstock.kit.ports import DiskFull, Files
from penstock.sim.disk import MemoryFiles

BIG = 1 << 20


@pytest.fixture(params=["memory", "folder"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "memory":
        return MemoryFiles(bytes_max=10 * BIG)
    return FolderFiles(tmp_path / "published")


class TestFiles:
    def test_what_was_written_is_read(self, files: Files) -> None:
        files.write("log/000/1.parquet", b"\x00one")
        assert files.read("log/000/1.parquet") == b"\x00one"

    def test_a_name_holds_the_last_bytes(self, files: Files) -> None:
        files.write("checkpoint", b"a much longer first version")
        files.write("checkpoint", b"short")
        assert files.read("checkpoint") == b"short"

    def test_an_empty_file_is_a_file(self, files: Files) -> None:
        files.write("empty", b"")
        assert files.read("empty") == b""
        assert files.names("") == ["empty"]

    def test_a_missing_file_is_not_found(self, files: Files) -> None:
        files.write("log/1", b"")
        for name in ("other", "log/2", "log/1x"):
            with pytest.raises(FileNotFoundError):
                files.read(name)

    def test_names_are_sorted_and_start_with_the_prefix(self, files: Files) -> None:
        for name in ("b/2", "a", "b/10", "bb", "b/1/x"):
            files.write(name, b"")
        assert files.names("b/") == ["b/1/x", "b/10", "b/2"]
        assert files.names("b") == ["b/1/x", "b/10", "b/2", "bb"]
        assert files.names("") == ["a", "b/1/x", "b/10", "b/2", "bb"]
        assert files.names("zzz") == []

    @pytest.mark.parametrize(
        "name",
        ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".hidden", "a/.b", "a\\b", "a\0b"],
    )
    def test_a_name_that_could_leave_the_folder_is_refused(self, files: Files, name: str) -> None:
        with pytest.raises(ValueError, match="name"):
            files.write(name, b"x")
        with pytest.raises(ValueError, match="name"):
            files.read(name)
        assert files.names("") == []

    @given(st.lists(st.tuples(st.sampled_from(["a", "b/c", "b/d"]), st.binary(max_size=64))))
    def test_any_sequence_of_writes_leaves_the_last_of_each_name(
        self, writes: list[tuple[str, bytes]]
    ) -> None:
        memory = MemoryFiles(bytes_max=BIG)
        for name, data in writes:
            memory.write(name, data)
        assert {name: memory.read(name) for name in memory.names("")} == dict(writes)


class TestFullDisk:
    def test_the_memory_is_full_at_its_bound_and_the_old_file_stands(self) -> None:
        files = MemoryFiles(bytes_max=100)
        files.write("a", b"x" * 60)
        with pytest.raises(DiskFull):
            files.write("a", b"y" * 60)
        assert files.read("a") == b"x" * 60
        files.bytes_max = 120
        files.write("a", b"y" * 60)
        assert files.bytes_used == 60

    def test_a_real_refusal_leaves_the_old_file_and_no_temporary_one(self, tmp_path: Path) -> None:
        """A process that may not write files beyond 4096 bytes meets EFBIG like a full disk."""
        FolderFiles(tmp_path).write("log/a", b"old")
        script = (
            "import resource, sys; from pathlib import Path\n"
            "from penstock.adapters.files import FolderFiles\n"
            "from penstock.kit.ports import DiskFull\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
            "try: FolderFiles(Path(sys.argv[1])).write('log/a', b'x' * 10000)\n"
            "except DiskFull: print('full')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout == "full\n"
        assert FolderFiles(tmp_path).read("log/a") == b"old"
        assert [path.name for path in (tmp_path / "log").iterdir()] == ["a"]

    def test_a_full_file_system_leaves_the_old_file(self, tmp_path: Path) -> None:
        """A real ENOSPC, on a file system of 64 KiB; only root may mount one."""
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)],
            capture_output=True,
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip("this user may not mount a small file system")
        try:
            files = FolderFiles(tmp_path)
            files.write("a", b"x" * 40_000)
            with pytest.raises(DiskFull):
                files.write("a", b"y" * 40_000)
            assert files.read("a") == b"x" * 40_000
            assert [path.name for path in tmp_path.iterdir()] == ["a"]
            files.write("b", b"z" * 8_000)
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)


class TestFolder:
    def test_a_reader_never_sees_a_part_of_a_file(self, tmp_path: Path) -> None:
        files = FolderFiles(tmp_path)
        versions = {bytes([number]) * BIG for number in range(4)}
        files.write("a", next(iter(versions)))
        stop = threading.Event()

        def write_on() -> None:
            while not stop.is_set():
                for data in versions:
                    files.write("a", data)

        writer = threading.Thread(target=write_on)
        writer.start()
        try:
            seen = [files.read("a") in versions for _ in range(200)]
        finally:
            stop.set()
            writer.join()
        assert all(seen)

    def test_two_names_never_share_a_temporary_file(self, tmp_path: Path) -> None:
        files = FolderFiles(tmp_path)
        run_together(
            lambda: files.write("a.json", b"json"),
            lambda: files.write("a.parquet", b"parquet"),
        )
        assert (files.read("a.json"), files.read("a.parquet")) == (b"json", b"parquet")

    def test_left_over_temporary_files_are_not_names(self, tmp_path: Path) -> None:
        files = FolderFiles(tmp_path)
        files.write("a", b"1")
        (tmp_path / ".a.4711.tmp").write_bytes(b"half")
        assert files.names("") == ["a"]

    def test_files_can_be_read_by_a_web_server_of_another_user(self, tmp_path: Path) -> None:
        old = os.umask(0o022)
        try:
            FolderFiles(tmp_path).write("a", b"1")
        finally:
            os.umask(old)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def run_together(*works: Callable[[], object]) -> None:
    def repeat(work: Callable[[], object]) -> None:
        for _ in range(50):
            work()

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

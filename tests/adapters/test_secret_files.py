"""Secrets in files: who may read them, what a race or a crash leaves, and what is never followed."""

import os
import stat
import threading
from pathlib import Path

import pytest

from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.secret_file import load_or_create_secret, read_secret

SECRET = b"correct horse battery staple\n"


def test_a_secret_is_made_for_its_owner_alone_even_under_a_generous_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_secret(tmp_path / "s", SECRET)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


def test_who_comes_second_gets_what_the_first_one_wrote(tmp_path: Path) -> None:
    assert load_or_create_secret(tmp_path / "s", SECRET) == SECRET
    assert load_or_create_secret(tmp_path / "s", b"other") == SECRET
    assert read_secret(tmp_path / "s") == SECRET
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("mode", [0o601, 0o602, 0o604, 0o610, 0o620, 0o640, 0o660, 0o666, 0o777])
def test_any_right_of_anybody_else_is_refused_and_named(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    load_or_create_secret(path, SECRET)
    path.chmod(mode)
    for read in (read_secret, lambda one: load_or_create_secret(one, b"other")):
        with pytest.raises(FileExposed) as refused:
            read(path)
        assert refused.value.mode == mode
        assert f"chmod 600 {path}" in str(refused.value)
        assert SECRET.decode().strip() not in str(refused.value)
    assert path.read_bytes() == SECRET


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_rights_of_the_owner_are_the_owners_business(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    load_or_create_secret(path, SECRET)
    path.chmod(mode)
    assert read_secret(path) == SECRET


def test_a_secret_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_secret(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_half_a_secret_of_a_crash_is_never_read(tmp_path: Path) -> None:
    (tmp_path / f".s.{os.getpid()}.tmp").write_bytes(b"correct ho")
    assert load_or_create_secret(tmp_path / "s", SECRET) == SECRET
    assert read_secret(tmp_path / "s") == SECRET


def test_a_link_planted_where_a_temporary_file_may_be_is_not_written_through(
    tmp_path: Path,
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".s.{os.getpid()}.tmp").symlink_to(victim)
    load_or_create_secret(tmp_path / "s", SECRET)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "s").is_symlink()


@pytest.mark.parametrize("attempt", range(5))
def test_many_of_one_process_number_at_once_agree_on_one_secret(
    tmp_path: Path, attempt: int
) -> None:
    """Threads share a process number, as the first processes of containers do: a temporary name
    made of it would let one publish the half-written file of another.
    """
    found: list[bytes] = []
    start = threading.Barrier(6)

    def work(number: int) -> None:
        start.wait()
        found.append(load_or_create_secret(tmp_path / "s", b"secret %d" % number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == [read_secret(tmp_path / "s")] * 6
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_a_link_to_a_secret_is_judged_by_the_secret_itself(tmp_path: Path) -> None:
    """A deployment may link to a mounted secret: the mode of the file it leads to is what counts."""
    load_or_create_secret(tmp_path / "real", SECRET)
    (tmp_path / "s").symlink_to(tmp_path / "real")
    assert read_secret(tmp_path / "s") == SECRET
    (tmp_path / "real").chmod(0o644)
    with pytest.raises(FileExposed):
        read_secret(tmp_path / "s")


def test_a_folder_in_the_place_of_a_key_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    with pytest.raises(IsADirectoryError):
        load_or_create_key(tmp_path / "k", os.urandom)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"{" * 5_000,
        b'{"scheme": 1, "seed": 2}',
        b'{"seed": "00"}',
        b"null",
        b'{"scheme": "ed25519", "seed": "\xff"}',
    ],
)
def test_whatever_stands_in_a_key_file_it_is_refused_with_its_path_and_kept(
    tmp_path: Path, text: bytes
) -> None:
    path = tmp_path / "k"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileInvalid) as refused:
        load_or_create_key(path, os.urandom)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == text


def test_two_keys_of_one_folder_are_two_keys(tmp_path: Path) -> None:
    names = {load_or_create_key(tmp_path / name, os.urandom).identity for name in ("a", "b", "c")}
    assert len(names) == 3
    again = {load_or_create_key(tmp_path / name, os.urandom).identity for name in ("a", "b", "c")}
    assert again == names

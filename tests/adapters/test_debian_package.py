"""Packages: from whichever source has the right bytes, taken apart without following any path."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from penstock.adapters.engines import debian_package, flite
from penstock.adapters.engines.debian_package import (
    Package,
    fetch_url,
    fetched,
    packages_folder,
    unpack,
)
from penstock.adapters.errors import PackageBroken
from penstock.kit.engine import EngineFailed


def tar_of(files: Mapping[str, bytes | str], *, mode: int = 0o755) -> bytes:
    """A data archive: bytes are files, texts are links."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mode = mode
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def deb_of(data: bytes, *, name: bytes = b"data.tar.xz") -> bytes:
    """An ar archive as dpkg writes it."""
    made = b"!<arch>\n"
    for part, content in ((b"debian-binary", b"2.0\n"), (b"control.tar.xz", b"odd"), (name, data)):
        head = part.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8)
        made += head + str(len(content)).encode().ljust(10) + b"`\n" + content
        made += b"\n" if len(content) % 2 else b""
    return made


def package_of(data: bytes) -> Package:
    return Package("f/flite/flite.deb", hashlib.sha256(data).hexdigest(), len(data))


class Mirrors:
    """What lies where; everything else is not found."""

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        self.pages = pages
        self.asked: list[str] = []

    def __call__(self, url: str, bytes_max: int) -> bytes:
        self.asked.append(url)
        for start, data in self.pages.items():
            if url.startswith(start):
                return data[: bytes_max + 1]
        raise OSError("no such host")


def test_the_first_source_with_the_right_bytes_is_taken() -> None:
    mirrors = Mirrors({"b/": b"something else", "c/": b"right"})
    data = fetched(package_of(b"right"), mirrors, sources=("a", "b", "c", "d"))
    assert data == b"right"
    assert [url[0] for url in mirrors.asked] == ["a", "b", "c"]


def test_all_sources_failing_are_named_each_with_its_cause() -> None:
    mirrors = Mirrors({"b/": b"wrong"})
    with pytest.raises(PackageBroken, match=r"a/f/flite.*no such host.*b/f/flite.*digest"):
        fetched(package_of(b"right"), mirrors, sources=("a", "b"))


def test_what_was_fetched_is_kept_and_a_spoilt_copy_is_fetched_again(tmp_path: Path) -> None:
    mirrors = Mirrors({"a/": b"right"})
    cache = tmp_path / "deep" / "cache"
    for _ in range(2):
        assert fetched(package_of(b"right"), mirrors, cache=cache, sources=("a",)) == b"right"
    assert len(mirrors.asked) == 1
    (kept,) = cache.iterdir()
    kept.write_bytes(b"spoilt")
    assert fetched(package_of(b"right"), mirrors, cache=cache, sources=("a",)) == b"right"
    assert len(mirrors.asked) == 2
    assert kept.read_bytes() == b"right"


def test_packages_are_kept_where_the_user_keeps_such_things() -> None:
    assert packages_folder({}) is None
    assert packages_folder({"HOME": "/h"}) == Path("/h/.cache/penstock/packages")
    assert packages_folder({"HOME": "/h", "XDG_CACHE_HOME": "/x"}) == Path("/x/penstock/packages")


def test_only_https_is_fetched() -> None:
    for url in ("http://deb.debian.org/a", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="by https"):
            fetch_url(url, 10)


def is_wanted(name: str) -> bool:
    return name in {"flite", "libflite.so.1", "libflite.so.2", "passwd"}


def test_wanted_files_land_flat_in_the_folder_whatever_their_paths_say(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    archive = tar_of(
        {
            "./usr/bin/flite": b"program",
            "../../../libflite.so.2": b"library",
            "/usr/lib/libflite.so.1": "../../libflite.so.2",
            "usr/lib/passwd": "/etc/shadow",
            "usr/share/doc/README": b"unwanted",
        }
    )
    unpack(deb_of(archive), folder, name="p", wanted=is_wanted)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("flite", "libflite.so.1", "libflite.so.2")
    ]
    assert (folder / "libflite.so.1").readlink() == Path("libflite.so.2")
    assert (folder / "libflite.so.1").read_bytes() == b"library"
    assert (folder / "flite").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_link_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    """A link first, then a file of its name: the file must not end where the link leads."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "flite").symlink_to(victim)
    unpack(deb_of(tar_of({"flite": b"program"})), folder, name="p", wanted=is_wanted)
    assert victim.read_text() == "mine"
    assert (folder / "flite").read_bytes() == b"program"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no package",
        b"!<arch>\n",
        deb_of(b"no xz"),
        deb_of(tar_of({"flite": bytes(5_000)})[:-30]),
        deb_of(tar_of({}), name=b"data.tar.zst"),
        b"!<arch>\n" + b"data.tar.xz".ljust(48) + b"many      `\n",
    ],
)
def test_what_is_no_package_is_said_to_be_none(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(PackageBroken):
        unpack(data, tmp_path, name="p", wanted=is_wanted)


def test_a_package_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian_package, "UNPACKED_BYTES_MAX", 50_000)
    with pytest.raises(PackageBroken, match="too much"):
        unpack(deb_of(tar_of({"flite": bytes(200_000)})), tmp_path, name="p", wanted=is_wanted)


def test_an_install_is_whole_or_not_at_all_and_leaves_nothing_behind(tmp_path: Path) -> None:
    good = deb_of(tar_of({"usr/bin/flite": b"program"}))
    bad = deb_of(b"no xz")
    mirrors = Mirrors({"https://deb.debian.org": bad})
    with pytest.raises(PackageBroken):
        flite.install(tmp_path / "flite-x", [package_of(bad)], mirrors, cache=None)
    assert list(tmp_path.iterdir()) == []
    mirrors = Mirrors({"https://snapshot.debian.org": good})
    for _ in range(2):  # somebody else may have been faster
        flite.install(tmp_path / "flite-x", [package_of(good)], mirrors, cache=None)
    assert [path.name for path in tmp_path.iterdir()] == ["flite-x"]
    assert (tmp_path / "flite-x" / "flite").read_bytes() == b"program"


def test_a_flite_on_the_path_is_used_and_nothing_is_fetched(tmp_path: Path) -> None:
    program = tmp_path / "flite"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    mirrors = Mirrors({})
    found = flite.flite_program(tmp_path / "home", env={"PATH": str(tmp_path)}, fetch=mirrors)
    assert found == (program, "")
    assert mirrors.asked == []


def test_without_a_source_the_remedy_is_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="apt install flite"):
        flite.flite_program(tmp_path, env={"PATH": str(tmp_path)}, fetch=Mirrors({}))
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_package_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EngineFailed, match="no program flite on this machine"):
        flite.flite_program(tmp_path, env={"PATH": str(tmp_path)}, fetch=Mirrors({}))


def test_only_the_program_and_its_libraries_are_ours() -> None:
    assert all(flite.is_ours(name) for name in ("flite", "libflite.so.1", "libasound.so.2.0.0"))
    assert not any(flite.is_ours(name) for name in ("flite_time", "libc.so.6", "libflite.a"))

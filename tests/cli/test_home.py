"""A market's home: lock, state, ports."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.errors import Stop
from penstock.cli.home import (
    Home,
    free_port,
    is_port_free,
    is_row_free,
    read_json,
    write_json,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.at(str(tmp_path / "home"))
    made.make()
    return made


def test_keys_are_for_their_owner_only(home: Home) -> None:
    assert home.keys.stat().st_mode & 0o077 == 0
    assert home.config.stat().st_mode & 0o077 == 0


def test_making_a_home_twice_changes_nothing(home: Home) -> None:
    (home.keys / "x").write_text("kept")
    home.make()
    assert (home.keys / "x").read_text() == "kept"


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Stop, match="cannot use"):
        Home.at(str(tmp_path / "file" / "home")).make()


def test_only_one_holds_the_lock_and_all_see_who(home: Home) -> None:
    assert home.supervisor_pid() is None
    handle = home.lock()
    assert handle is not None
    assert home.lock() is None
    assert home.supervisor_pid() == os.getpid()
    os.close(handle)
    assert home.supervisor_pid() is None


def test_the_lock_goes_with_the_process_that_held_it(home: Home) -> None:
    code = (
        "import sys; from penstock.cli.home import Home; "
        "home = Home.at(sys.argv[1]); handle = home.lock(); print(handle is not None, flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "True"
        assert home.supervisor_pid() == child.pid
        child.kill()
        child.wait()
    assert home.supervisor_pid() is None


def test_ports_once_chosen_are_kept(home: Home) -> None:
    gateway = free_port(set())
    first = home.ports(["gateway", "ledger", "market"], gateway_port=gateway)
    assert first["gateway"] == gateway
    assert len(set(first.values())) == 3
    assert home.ports(["gateway", "ledger", "market"], gateway_port=gateway) == first


def test_a_kept_port_that_is_taken_is_chosen_anew(home: Home) -> None:
    first = home.ports(["gateway", "ledger"], gateway_port=free_port(set()))
    with socket.socket() as other:
        other.bind(("127.0.0.1", first["ledger"]))
        other.listen()
        again = home.ports(["gateway", "ledger"], gateway_port=first["gateway"])
    assert again["ledger"] != first["ledger"]


def test_a_row_of_ports_is_kept_whole_and_chosen_anew_when_one_of_it_is_taken(home: Home) -> None:
    gateway = free_port(set())
    names, rows = ["gateway", "ledger"], {"tunnel": 3}
    first = home.ports(names, gateway_port=gateway, rows=rows)
    row = set(range(first["tunnel"], first["tunnel"] + 3))
    assert not row & {gateway, first["ledger"]}
    assert home.ports(names, gateway_port=gateway, rows=rows) == first
    with socket.socket() as other:
        other.bind(("127.0.0.1", first["tunnel"] + 2))
        other.listen()
        again = home.ports(names, gateway_port=gateway, rows=rows)
    assert first["tunnel"] + 2 not in range(again["tunnel"], again["tunnel"] + 3)


def test_a_row_of_ports_ends_where_ports_end() -> None:
    assert not is_row_free(65_534, 3, set())
    assert not is_row_free(1_000, 3, {1_002})


def test_a_taken_gateway_port_is_told_with_a_free_one(home: Home) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert not is_port_free(port)
        with pytest.raises(Stop) as caught:
            home.ports(["gateway"], gateway_port=port)
    assert f"port {port} is taken" in str(caught.value)
    assert "--port" in str(caught.value)


def test_state_is_read_back_and_garbage_reads_as_nothing(home: Home) -> None:
    home.write_state({"ready": True})
    assert home.read_state() == {"ready": True}
    for garbage in (b"", b"[]", b"{", b"\xff"):
        home.state_file.write_bytes(garbage)
        assert home.read_state() == {}


def test_json_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1}, mode=0o600)
    write_json(path, {"b": 2}, mode=0o600)
    assert read_json(path) == {"b": 2}
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]
    assert path.stat().st_mode & 0o077 == 0

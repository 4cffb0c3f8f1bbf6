"""The working key in a file."""

import json
import os
from pathlib import Path

import pytest

from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.adapters.keyfile import load_or_create_key

SEED = bytes(range(32))


def test_a_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "home" / "gateway.key"
    made = load_or_create_key(path, os.urandom)
    assert load_or_create_key(path, os.urandom).identity == made.identity
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["gateway.key"]


def test_the_file_says_scheme_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "k"
    load_or_create_key(path, lambda count: SEED[:count])
    assert json.loads(path.read_text()) == {"scheme": "ed25519", "seed": SEED.hex()}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_file_that_others_can_read_is_refused_with_the_command_to_run(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "k"
    load_or_create_key(path, os.urandom)
    path.chmod(mode)
    with pytest.raises(FileExposed, match=f"chmod 600 {path}"):
        load_or_create_key(path, os.urandom)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        '{"scheme": "ed25519"}',
        '{"scheme": "rsa", "seed": "' + SEED.hex() + '"}',
        '{"scheme": "ed25519", "seed": "' + SEED.hex()[2:] + '"}',
        '{"scheme": "ed25519", "seed": "' + "zz" * 32 + '"}',
        '{"scheme": "ed25519", "seed": "' + SEED.hex() + '", "more": 1}',
    ],
)
def test_a_broken_file_is_never_replaced_and_its_seed_never_shown(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileInvalid) as caught:
        load_or_create_key(path, os.urandom)
    assert SEED.hex()[2:] not in str(caught.value)
    assert path.read_text() == text


def test_many_at_once_end_up_with_one_key(tmp_path: Path) -> None:
    path = tmp_path / "k"
    pids = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            identity = load_or_create_key(path, os.urandom).identity
            (tmp_path / f"seen{number}").write_text(identity)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    seen = {(tmp_path / f"seen{number}").read_text() for number in range(2)}
    assert seen == {load_or_create_key(path, os.urandom).identity}

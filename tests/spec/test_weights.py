"""Listings and questions: one spelling, no path that escapes, nothing believed that is not signed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.keys import Ed25519Key, verify
from penstock.spec.errors import BadMessage, BadSignature, SpecError
from penstock.spec.keys import sign
from penstock.spec.weights import (
    ASK_KIND,
    FILES_MAX,
    LISTING_BYTES_MAX,
    LISTING_HEAD,
    WeightFile,
    WeightsAsk,
    check_weights_ask,
    is_weight_path,
    listing_digest,
    read_listing,
    spell_listing,
)

NAMES = st.from_regex(r"[a-z0-9_][a-z0-9._+=-]{0,8}(/[a-z0-9_]{1,4}){0,2}", fullmatch=True)
FILES = st.lists(
    st.builds(
        WeightFile,
        path=NAMES.map(lambda name: f"{name}.x"),
        sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
        size_bytes=st.integers(0, 1 << 50),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda file: file.path.lower(),
)


def spelled(files: list[WeightFile]) -> bytes | None:
    """None where a name is a file and a folder."""
    try:
        return spell_listing(files)
    except BadMessage:
        return None


@given(files=FILES)
def test_a_listing_reads_as_it_was_written_whatever_the_order(files: list[WeightFile]) -> None:
    data = spelled(files)
    if data is not None:
        assert read_listing(data) == tuple(sorted(files, key=lambda file: file.path))
        assert spelled(files[::-1]) == data


@given(files=FILES, place=st.integers(0, 400), byte=st.integers(0, 255))
def test_any_other_bytes_are_another_model_or_none(
    files: list[WeightFile], place: int, byte: int
) -> None:
    data = spelled(files)
    if data is None:
        return
    place %= len(data)
    changed = data[:place] + bytes([byte]) + data[place + 1 :]
    try:
        found = read_listing(changed)
    except SpecError:
        return
    assert spell_listing(found) == changed
    assert (found == read_listing(data)) is (changed == data)


@given(text=st.text(max_size=30))
def test_no_path_leaves_its_folder_or_hides(text: str) -> None:
    if is_weight_path(text):
        parts = text.split("/")
        assert all(part and part[0] not in ".-" for part in parts)
        assert "\\" not in text
        assert text.isascii()


def test_the_bounds_of_a_listing() -> None:
    files = [WeightFile(f"f{number}", "0" * 64, 1) for number in range(FILES_MAX + 1)]
    assert len(read_listing(spell_listing(files[:-1]))) == FILES_MAX
    with pytest.raises(BadMessage, match="4096 files"):
        spell_listing(files)
    with pytest.raises(BadMessage, match="at most"):
        read_listing(LISTING_HEAD + bytes(LISTING_BYTES_MAX))


def test_a_folder_of_one_file_is_another_model_than_the_file() -> None:
    file = WeightFile("a.gguf", "0" * 64, 1)
    assert listing_digest([file]) != file.sha256


KEY, OTHER = Ed25519Key(b"k" * 32), Ed25519Key(b"o" * 32)
ASK = WeightsAsk(KEY.identity, "h:1", "0" * 64, 1_000)


def check(ask: WeightsAsk, key: Ed25519Key, *, now_ms: int = 1_000) -> WeightsAsk:
    signed = sign(ASK_KIND, ask, key)
    return check_weights_ask(signed, host="h:1", now_ms=now_ms, skew_max_ms=5, verify=verify)


def test_a_question_is_the_signers_own() -> None:
    assert check(ASK, KEY) == ASK
    with pytest.raises(BadMessage, match="the signer is not the miner"):
        check(ASK, OTHER)
    with pytest.raises(BadSignature):
        check_weights_ask(
            sign("offer", ASK, KEY), host="h:1", now_ms=1_000, skew_max_ms=5, verify=verify
        )


@given(now_ms=st.integers(0, 200_000))
def test_a_question_is_fresh_for_a_minute_and_not_before_its_time(now_ms: int) -> None:
    fresh = 995 <= now_ms <= 61_000
    try:
        check(ASK, KEY, now_ms=now_ms)
    except SpecError:
        assert not fresh
    else:
        assert fresh

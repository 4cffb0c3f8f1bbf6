"""What a manifest may write as the source of its weights."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.weights.errors import (
    FormatRefused,
    PickleRefused,
    ReferenceInvalid,
    gib,
)
from penstock.adapters.weights.formats import (
    check_head,
    check_name,
    kept_paths,
    suffix_of,
)
from penstock.adapters.weights.reference import (
    FileReference,
    HubReference,
    Reference,
    StoreReference,
    UrlReference,
    is_fetched,
    parse_reference,
)

GOOD: dict[str, Reference] = {
    "hf:o/r": HubReference("o/r", "main", ""),
    "hf:o/r@v1.0": HubReference("o/r", "v1.0", ""),
    "hf:o/r@abc123/sub/m.gguf": HubReference("o/r", "abc123", "sub/m.gguf"),
    "hf:o/r/sub/m.gguf@abc123": HubReference("o/r", "abc123", "sub/m.gguf"),
    "hf:o/r/m.gguf": HubReference("o/r", "main", "m.gguf"),
    "https://h/a/m.gguf": UrlReference("https://h/a/m.gguf", "m.gguf"),
    "https://h:8443/base/": StoreReference("https://h:8443/base", is_peer=False),
    "penstock:http://m:9/": StoreReference("http://m:9/v1/weights", is_peer=True),
    "file:/models/m.gguf": FileReference(Path("/models/m.gguf")),
}


@pytest.mark.parametrize("text", GOOD)
def test_a_source_is_read(text: str) -> None:
    assert parse_reference(text) == GOOD[text]
    assert is_fetched(text) is not isinstance(GOOD[text], FileReference)


BAD = [
    *("", "hf:", "hf:o", "hf:o/", "hf:/r", "hf:o/r@", "hf:o/r@a b", "hf:o/r/x.gguf@v/y.gguf"),
    *("hf:../r", "hf:o/../x", "hf:o/r@main/../x", "hf:o/r@main//x", "hf:o/r@.hidden", "hf:o/r@v/"),
    *("https://", "https:///x.gguf", "https://u@h/x.gguf", "https://h/x.gguf#y", "https://h:0/x.g"),
    *(
        "https://h/x y.gguf",
        "https://h:99999/x.gguf",
        "https://[::1/x.gguf",
        "https://h/..",
        "ftp:x",
    ),
    *(
        "penstock:miner",
        "penstock:file:///x",
        "file:x",
        "file:",
        "s3://b/x",
        "hf:o/r\n",
        "x" * 2000,
    ),
]


@pytest.mark.parametrize("text", [text for text in BAD if text not in {"hf:o/r@v/", "hf:o/"}])
def test_a_source_that_names_nothing_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ReferenceInvalid, match="hf:owner/repo"):
        parse_reference(text)


@given(st.text(max_size=60).map(lambda text: f"hf:{text}") | st.text(max_size=60))
def test_no_text_breaks_the_reader_and_no_path_escapes(text: str) -> None:
    try:
        found = parse_reference(text)
    except ReferenceInvalid:
        return
    if isinstance(found, HubReference):
        assert ".." not in f"{found.repo}/{found.path}".split("/")
        assert not found.path.startswith("/")


def test_of_a_folder_the_safe_files_are_kept_in_order() -> None:
    names = ["b.safetensors", "a.json", "x.bin", "README.md", "modeling.py", "t.model", "z.GGUF"]
    assert kept_paths(names, source="s") == ["a.json", "b.safetensors", "t.model", "z.GGUF"]


@pytest.mark.parametrize("name", ["a.bin", "a.PT", "x/a.pth", "a.ckpt", "a.pkl", "a.npz", "a.h5"])
def test_pickles_are_refused_by_their_names(name: str) -> None:
    with pytest.raises(PickleRefused, match=r"runs code when it is loaded"):
        check_name(name, source="s")
    with pytest.raises(PickleRefused):
        kept_paths([name, "config.json"], source="s")


@pytest.mark.parametrize("name", ["a.py", "a", "a.so", "a.onnx", "a.zip", "gguf"])
def test_other_kinds_are_refused_too(name: str) -> None:
    with pytest.raises(FormatRefused):
        check_name(name, source="s")
    with pytest.raises(FormatRefused, match=r"no \.safetensors"):
        kept_paths([name, "config.json"], source="s")


SAFE = (8).to_bytes(8, "little") + b'{"a":{}}'


def test_the_first_bytes_tell_the_format() -> None:
    assert suffix_of(b"GGUF\x03\0\0\0", size_bytes=100) == ".gguf"
    assert suffix_of(SAFE, size_bytes=len(SAFE)) == ".safetensors"
    assert suffix_of(SAFE, size_bytes=10) == "", "a header longer than the file"
    assert suffix_of(b"\x80\x02}q", size_bytes=100) == ""
    assert suffix_of(b"<!DOCTYPE html>...", size_bytes=100) == ""
    assert suffix_of(b"", size_bytes=0) == ""


def test_a_name_and_its_first_bytes_must_agree() -> None:
    check_head("a.gguf", b"GGUF", size_bytes=4)
    check_head("config.json", b"{}", size_bytes=2)
    with pytest.raises(FormatRefused, match="first bytes"):
        check_head("a.gguf", SAFE, size_bytes=len(SAFE))
    with pytest.raises(FormatRefused):
        check_head("a.safetensors", b"GGUF", size_bytes=4)


def test_sizes_are_said_as_people_say_them_and_never_too_small() -> None:
    assert gib(3 << 29) == "1.5 GiB"
    assert gib(1) == "0.1 GiB"
    assert gib(0) == "0.0 GiB"

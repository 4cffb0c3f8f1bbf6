"""Hubs and mirrors whose lists lie: paths that escape, trees without end, pickles, listings of others."""

from pathlib import Path

import pytest
from tests.adapters.weights.hub_server import (
    REPO,
    Hub,
    entry,
    gguf,
    pieces,
    running,
    safetensors,
    serving,
    sha,
)
from tests.adapters.weights.makers import (
    folder_digest,
    hub_file,
    make_weights,
    weights_of,
)

from penstock.adapters.weights.errors import (
    DigestWrong,
    FormatRefused,
    NoSourceLeft,
    PickleRefused,
    SourceMissing,
    SourceRefused,
    WeightsError,
)
from penstock.adapters.weights.fetch import Places
from penstock.kit.wire.http import Headers, Request, Response, Stream, json_response

MODEL = gguf(1 << 20)
NAME = hub_file("a.gguf")


async def refused(hub: Hub, tmp_path: Path, want: str = "", reference: str = NAME) -> WeightsError:
    """Why the hub's file was not taken; nothing may be left of it."""
    weights = weights_of(tmp_path, hub)
    digest = want or sha(MODEL)
    with pytest.raises(NoSourceLeft) as caught:
        await weights.fetch(reference, digest)
    assert not weights.store.blob(digest).exists()
    assert not (tmp_path / "models" / digest).exists()
    assert caught.value.failures[-1][1].args is not None
    return caught.value.failures[-1][1]


PATHS = [
    "../../etc/cron.d/x.json",
    "/abs.json",
    "a/../b.json",
    ".ssh/x.json",
    "a\\b.json",
    "a//b.json",
]


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_that_leaves_its_folder_never_reaches_the_disk(
    path: str, tmp_path: Path
) -> None:
    files = {"m.safetensors": safetensors(1000), "config.json": b"{}"}
    hub = Hub(files)

    async def tree(request: Request) -> Response | Stream:
        if "/tree/" in request.path:
            escaping = {**entry("x.json", b"{}"), "path": path}
            return json_response(200, [*(entry(n, d) for n, d in files.items()), escaping])
        return await hub.serve(request)

    async with serving(tree) as url:
        root = tmp_path / "deep" / "weights"
        weights = make_weights(root, Places(hub=url), trusted=(url,))
        await weights.fetch(f"hf:{REPO}", folder_digest(files))
        outside = [p for p in tmp_path.rglob("*") if p.is_file() and root not in p.parents]
        assert outside == []


TREES: dict[str, bytes] = {
    "no JSON": b"<html>",
    "no list": b'{"error":"x"}',
    "deep": b"[" * 100_000,
    "a size below nothing": b'[{"type":"file","path":"a.gguf","lfs":{"oid":"%s","size":-1}}]'
    % sha(MODEL).encode(),
    "a digest that is none": b'[{"type":"file","path":"a.gguf","lfs":{"oid":"../x","size":1}}]',
    "a large file without a digest": b'[{"type":"file","path":"a.gguf","size":99999999}]',
    "too large": b"[" + b" " * (9 << 20) + b"]",
}


@pytest.mark.parametrize("name", TREES)
async def test_a_tree_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    async def tree(_request: Request) -> Response | Stream:
        return Response(200, TREES[name])

    async with serving(tree) as url:
        weights = make_weights(tmp_path, Places(hub=url), trusted=(url,))
        with pytest.raises(NoSourceLeft) as caught:
            await weights.fetch(NAME, sha(MODEL))
        assert isinstance(caught.value.failures[-1][1], SourceRefused)


@pytest.mark.parametrize("where", ["same", "elsewhere"])
async def test_pages_without_end_end_and_pages_elsewhere_are_not_read(
    where: str, tmp_path: Path
) -> None:
    asked = []

    async def tree(request: Request) -> Response | Stream:
        asked.append(request.path)
        base = "" if where == "same" else "https://example.com"
        link: Headers = (("link", f'<{base}/next{len(asked)}>; rel="next"'),)
        return json_response(200, [], headers=link)

    async with serving(tree) as url:
        weights = make_weights(tmp_path, Places(hub=url), trusted=(url,))
        with pytest.raises(NoSourceLeft, match=r"pages|elsewhere"):
            await weights.fetch(NAME, sha(MODEL))
        assert len(asked) == (64 if where == "same" else 1)


async def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    pickles = {"pytorch_model.bin": b"\x80\x02.", "config.json": b"{}"}
    async with running(Hub(pickles)) as hub:
        for reference in (f"hf:{REPO}", hub_file("pytorch_model.bin")):
            error = await refused(hub, tmp_path, sha(b"x"), reference)
            assert isinstance(error, PickleRefused)
            assert "pytorch_model.bin" in str(error)


async def test_a_pickle_under_another_name_is_refused_by_its_bytes(tmp_path: Path) -> None:
    data = b"\x80\x04\x95" + bytes(1000)
    async with running(Hub({"model.safetensors": data, "a.gguf": data + b"2"})) as hub:
        for reference, want in (
            (hub_file("model.safetensors"), sha(data)),
            (NAME, sha(data + b"2")),
            (f"{hub.url}/mirror/", sha(data)),
        ):
            assert isinstance(await refused(hub, tmp_path, want, reference), FormatRefused)


async def test_a_small_file_that_is_not_what_the_hub_listed_is_refused(tmp_path: Path) -> None:
    files = {"m.safetensors": safetensors(1000), "config.json": b'{"a":1}'}
    hub = Hub(files)

    async def swapped(request: Request) -> Response | Stream:
        if request.path.endswith("/config.json"):
            return Response(200, b'{"a":2}')
        return await hub.serve(request)

    async with serving(swapped) as url:
        weights = make_weights(tmp_path, Places(hub=url), trusted=(url,))
        with pytest.raises(NoSourceLeft) as caught:
            await weights.fetch(f"hf:{REPO}", folder_digest(files))
        assert isinstance(caught.value.failures[-1][1], DigestWrong)


async def test_a_mirror_with_a_listing_of_another_model_is_refused(tmp_path: Path) -> None:
    async def lying(_request: Request) -> Response | Stream:
        listing = b"penstock/weights/v1\n[]"
        return Response(200, listing)

    async with serving(lying) as url:
        weights = make_weights(tmp_path, trusted=(url,))
        with pytest.raises(NoSourceLeft) as caught:
            await weights.fetch(f"{url}/", sha(MODEL))
        assert isinstance(caught.value.failures[-1][1], DigestWrong)
        with pytest.raises(NoSourceLeft, match="listing is refused"):
            await weights.fetch(f"{url}/", sha(b"penstock/weights/v1\n[]"))


async def test_a_hub_that_is_away_or_has_no_such_file_says_so(tmp_path: Path) -> None:
    async with running(Hub({"b.gguf": MODEL})) as hub:
        weights = weights_of(tmp_path, hub)
        with pytest.raises(SourceMissing, match="404"):
            await weights.digest(NAME)
    with pytest.raises(SourceRefused, match="cannot connect"):
        await weights.digest(NAME)


async def test_a_source_of_one_file_asks_for_its_length_first(tmp_path: Path) -> None:
    async def unsized(_request: Request) -> Response | Stream:
        return Stream(200, (), pieces(MODEL))

    async with serving(unsized) as url:
        weights = make_weights(tmp_path, trusted=(url,))
        with pytest.raises(NoSourceLeft, match="how long"):
            await weights.fetch(f"{url}/a.gguf", sha(MODEL))
    async with running(Hub({"a.gguf": MODEL})) as hub:
        weights = make_weights(tmp_path, trusted=(hub.url,))
        path = await weights.fetch(f"{hub.url}/{REPO}/resolve/main/a.gguf", sha(MODEL))
        assert path.read_bytes() == MODEL


async def test_many_files_or_large_small_ones_are_refused(tmp_path: Path) -> None:
    trees: list[object] = [
        [entry(f"f{number}.gguf", b"GGUF") for number in range(4_097)],
        [
            *({"type": "file", "path": f"{n}.json", "size": 16 << 20} for n in range(5)),
            entry("a.gguf", MODEL),
        ],
        [entry("a.gguf", MODEL), entry("A.gguf", MODEL)],
    ]

    async def tree(_request: Request) -> Response | Stream:
        return json_response(200, trees[0])

    async with serving(tree) as url:
        weights = make_weights(tmp_path, Places(hub=url), trusted=(url,))
        while trees:
            with pytest.raises(NoSourceLeft, match=r"4096 files|too large together|stands twice"):
                await weights.fetch(f"hf:{REPO}", sha(MODEL))
            trees.pop(0)

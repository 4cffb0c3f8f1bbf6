"""The weights of a manifest: fetched for an instance, kept while it uses them, and let go."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.adapters.weights.hub_server import Hub, gguf, running, sha
from tests.adapters.weights.makers import hub_file, weights_of
from tests.makers import MANIFEST

from penstock.adapters.weights.of_manifest import ManifestWeights, words_of
from penstock.adapters.weights.progress import Progress
from penstock.kit.engine import EngineFailed

MODEL = gguf(1 << 20)
NAMED = replace(MANIFEST, engine="llamacpp", source=hub_file("tiny.gguf"), model_digest=sha(MODEL))


async def test_they_come_are_pinned_for_the_instance_and_their_size_is_known(
    tmp_path: Path,
) -> None:
    async with running(Hub({"tiny.gguf": MODEL})) as hub:
        cache = weights_of(tmp_path, hub)
        weights = ManifestWeights(cache)
        assert weights.size_bytes(NAMED) == 0
        told: list[str] = []
        await weights.pull(NAMED, instance="m-1-0a", say=told.append)
        assert told[-1].startswith("fetching tiny.gguf: 1 of 1 MiB")
        assert weights.size_bytes(NAMED) == len(MODEL)
        assert cache.store.holders(sha(MODEL)) == {"m-1-0a"}
        ManifestWeights(cache).drop(NAMED, instance="m-1-0a")
        weights.drop(NAMED, instance="m-1-0a")
        assert cache.store.holders(sha(MODEL)) == frozenset()
        await cache.close()


@pytest.mark.parametrize(
    "manifest",
    [
        replace(MANIFEST, engine="llamacpp", source="builtin:tiny-chat"),
        replace(MANIFEST, engine="llamacpp", source="file:/models/a.gguf"),
        replace(MANIFEST, engine="openai-http", source="http://127.0.0.1:9/v1"),
    ],
)
async def test_what_an_engine_has_by_itself_is_not_fetched(
    manifest: object, tmp_path: Path
) -> None:
    async with running(Hub({})) as hub:
        cache = weights_of(tmp_path, hub)
        weights = ManifestWeights(cache)
        weights.drop(manifest, instance="m-1-0a")  # type: ignore[arg-type]  # one of the above
        await weights.pull(manifest, instance="m-1-0a", say=print)  # type: ignore[arg-type]  # one of the above
        assert weights.size_bytes(manifest) == 0  # type: ignore[arg-type]  # one of the above
        await cache.close()


async def test_weights_that_do_not_hold_their_digest_fail_the_engine(tmp_path: Path) -> None:
    async with running(Hub({"tiny.gguf": gguf(1 << 20, seed=2)})) as hub:
        cache = weights_of(tmp_path, hub)
        with pytest.raises(EngineFailed) as caught:
            await ManifestWeights(cache).pull(NAMED, instance="m-1-0a", say=print)
        assert sha(MODEL)[:16] in str(caught.value)
        assert cache.store.holders(sha(MODEL)) == frozenset()
        await cache.close()


async def test_a_digest_that_is_a_path_is_never_looked_up(tmp_path: Path) -> None:
    (tmp_path / "outside.json").write_text("{}")
    async with running(Hub({})) as hub:
        (tmp_path / "cache").mkdir()
        cache = weights_of(tmp_path / "cache", hub)
        weights = ManifestWeights(cache)
        for digest in ("../outside", "", "A" * 64, "../../etc/passwd"):
            named = replace(NAMED, model_digest=digest)
            assert weights.size_bytes(named) == 0
            weights.drop(named, instance="m-1-0a")
            with pytest.raises(EngineFailed):
                await weights.pull(named, instance="m-1-0a", say=print)
        await cache.close()


def test_who_waits_for_another_says_so() -> None:
    waiting = Progress(0, 9, 0, None, "hub", "a.gguf", waits=True)
    assert "another process" in words_of(waiting)
    assert "3 of 9 MiB, 2 MiB/s from hub" in words_of(
        Progress(3 << 20, 9 << 20, 2 << 20, 3_000, "hub", "a.gguf")
    )

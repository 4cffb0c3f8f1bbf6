"""MiniLM: converted once, whole or not at all, and its vectors mean something."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import msgspec
import pytest
from tests.engine_makers import DEADLINE_MS, Caller, make_world

from penstock.adapters.engines import minilm
from penstock.adapters.engines.catalogue import build_engine
from penstock.adapters.engines.gguf_tensors import Encoding
from penstock.adapters.engines.minilm_package import weights_folder
from penstock.adapters.engines.model_files import digest_hex
from penstock.kit.engine import Capability, EngineFailed, EngineLimits


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("minilm")


def test_the_model_is_converted_once_under_the_digest_of_its_weights(home: Path) -> None:
    made = minilm.minilm_gguf(home)
    stamp = made.stat().st_mtime_ns
    weights = digest_hex(weights_folder(home) / "model.safetensors")
    assert weights == minilm.weights_hex()
    assert weights[:16] in made.name
    assert minilm.minilm_gguf(home).stat().st_mtime_ns == stamp
    assert [path.name for path in home.iterdir()] == [made.name]


def test_instances_that_start_together_convert_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings, rerank and moderation of one miner, each in a thread of its own."""
    converted: list[Path] = []

    def write(folder: Path, out: Path, *, encoding: Encoding) -> None:
        converted.append(folder)
        out.write_text(encoding)

    monkeypatch.setattr(minilm, "write_bert", write)
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(lambda _: minilm.minilm_gguf(tmp_path), range(8)))
    assert len(made) == len(converted) == 1


def test_equal_weights_give_equal_files(home: Path, tmp_path: Path) -> None:
    assert minilm.minilm_gguf(home).read_bytes() == minilm.minilm_gguf(tmp_path).read_bytes()


def test_q8_0_takes_about_half_of_f16(home: Path) -> None:
    half = minilm.minilm_gguf(home).stat().st_size
    quarter = minilm.minilm_gguf(home, encoding=Encoding.Q8_0).stat().st_size
    assert quarter < 0.6 * half


def test_word_pieces_are_marked_the_other_way_round(home: Path) -> None:
    fields = gguf.GGUFReader(minilm.minilm_gguf(home)).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[101] == "[CLS]"
    assert tokens[2003] == "\u2581is"
    assert tokens[2015] == "s"


def test_without_the_packages_that_convert_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm, "CONVERTER", ("gguf", "a_package_that_nobody_has"))
    with pytest.raises(EngineFailed, match=r"penstock\[miner\]"):
        minilm.minilm_gguf(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_weights_than_manifests_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(EngineFailed, match="not those"):
        minilm.check_weights(tmp_path)


async def test_related_texts_are_nearer_than_unrelated_ones(home: Path) -> None:
    limits = EngineLimits(slots_max=2, context_tokens_max=4096)
    engine = build_engine("minilm", minilm.SOURCE, limits, world=make_world(home))
    await engine.start(deadline_ms=DEADLINE_MS)
    texts = ["How do I cook pasta?", "Boil the noodles in salt water.", "The stock market fell."]
    reply = await Caller(engine).post("/v1/embeddings", {"input": texts})
    too_long = await Caller(engine).post("/v1/embeddings", {"input": "word " * 1000})
    await engine.stop(deadline_ms=DEADLINE_MS)
    asked, related, unrelated = [
        entry["embedding"] for entry in msgspec.json.decode(reply.body)["data"]
    ]
    assert len(asked) == minilm.VECTOR_SIZE
    assert cosine(asked, related) > cosine(asked, unrelated) + 0.3
    assert engine.capabilities == {Capability.EMBEDDINGS, Capability.RERANK}
    assert too_long.status == 400


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))

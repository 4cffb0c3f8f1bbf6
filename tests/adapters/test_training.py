"""The shipped model and the scripts that make it: digests, corpus, export."""

import json
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.engine_makers import DEADLINE_MS, Caller, make_world
from training.tiny_chat import train
from training.tiny_chat.corpus import SHARES, Mix, conversations, rendered
from training.tiny_chat.exchanges import spelled
from training.tiny_chat.export import export_llama, rotate_in_pairs

from penstock.adapters.engines.catalogue import build_engine
from penstock.adapters.engines.gguf_tensors import Encoding
from penstock.adapters.engines.model_files import digest_hex, gguf_path
from penstock.kit.engine import EngineLimits

SHIPPED = gguf_path("builtin:tiny-chat")
PUBLISHED = Path(train.__file__).parent / "published"
HEADS = 6
LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}


def sample(seed: int, count: int, mix: Mix = Mix.FULL) -> list[Any]:
    return list(islice(conversations(seed, mix), count))


def original_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    *block, part, kind = name.split(".")
    layer = f"model.layers.{block[1]}." if block else ""
    return f"{layer}{LLAMA_NAMES[part]}.{kind}"


def back_in_halves(values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    pairs = values.reshape(HEADS, values.shape[0] // HEADS // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))


def unpack(model: Path, folder: Path) -> None:
    """A GGUF back to a Hugging Face folder, as far as its rounding allows."""
    tensors = {}
    for tensor in gguf.GGUFReader(model).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        if "attn_q." in tensor.name or "attn_k." in tensor.name:
            values = back_in_halves(values)
        tensors[original_name(tensor.name)] = values
    for path in PUBLISHED.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    save_file(tensors, folder / "model.safetensors")


def test_the_shipped_model_is_the_one_its_card_and_digest_file_name() -> None:
    digest = digest_hex(SHIPPED)
    assert (SHIPPED.parent / "SHA256").read_text() == f"{digest}  {SHIPPED.name}\n"
    assert digest in (SHIPPED.parent / "README.md").read_text()


def test_the_shipped_model_is_what_the_export_writes_from_its_own_weights(tmp_path: Path) -> None:
    unpack(SHIPPED, tmp_path)
    again = tmp_path / "again.gguf"
    export_llama(tmp_path, again, encoding=Encoding.Q8_0)
    old, new = gguf.GGUFReader(SHIPPED), gguf.GGUFReader(again)
    old_fields = {name: field.contents() for name, field in old.fields.items()}
    assert old_fields == {name: field.contents() for name, field in new.fields.items()}
    written = {tensor.name: tensor for tensor in new.tensors}
    assert len(written) == len(old.tensors)
    for tensor in old.tensors:
        first = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        second = gguf.quants.dequantize(written[tensor.name].data, written[tensor.name].tensor_type)
        # Rounding what was rounded moves a scale by at most one step of f16.
        np.testing.assert_allclose(second, first, rtol=2e-3, atol=1e-6)


def test_the_card_counts_the_parameters_right() -> None:
    tensors = gguf.GGUFReader(SHIPPED).tensors
    total = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    assert f"{total:,} parameters" in (SHIPPED.parent / "README.md").read_text()


def test_turning_pairs_undoes_turning_halves() -> None:
    values = np.arange(HEADS * 32 * 4).reshape(HEADS * 32, 4)
    turned = rotate_in_pairs(values, HEADS)
    assert turned[1].tolist() == values[16].tolist()
    assert np.array_equal(back_in_halves(turned), values)


def test_an_unknown_tensor_stops_the_export(tmp_path: Path) -> None:
    unpack(SHIPPED, tmp_path)
    save_file({"model.extra.weight": np.zeros((32, 32))}, tmp_path / "model.safetensors")
    with pytest.raises(KeyError, match=r"model\.extra\.weight"):
        export_llama(tmp_path, tmp_path / "out.gguf", encoding=Encoding.F16)


def test_a_seed_fixes_the_corpus_in_every_process() -> None:
    command = [sys.executable, "-m", "training.tiny_chat.corpus", "--count", "300", "--seed"]
    outputs = [
        subprocess.run(
            [*command, seed],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for seed, hash_seed in (("1", "1"), ("1", "2"), ("2", "1"))
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]


def test_every_sum_in_the_corpus_is_right() -> None:
    checked = 0
    for talk in sample(3, 2000):
        for message in talk.messages:
            if message.role != "assistant":
                continue
            for left, sign, right, total in re.findall(
                r"(\d+) ([-+*]) (\d+) = (\d+)", message.content
            ):
                one, other = int(left), int(right)
                right_total = {"+": one + other, "-": one - other, "*": one * other}[sign]
                assert int(total) == right_total, message.content
                checked += 1
    assert checked > 500


def test_a_copying_lesson_holds_only_what_it_should() -> None:
    families = SHARES[Mix.COPY]
    assert sum(families.values()) == 100
    assert all(not talk.tools for talk in sample(1, 300, Mix.COPY))


def test_tool_calls_name_an_offered_tool_with_all_its_parameters() -> None:
    calls = 0
    for talk in sample(5, 3000):
        answer = talk.messages[-1].content
        if not talk.tools or not answer.startswith("<tool_call>"):
            continue
        call = json.loads(answer.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        offered = {tool["function"]["name"]: tool["function"] for tool in talk.tools}
        assert list(call["arguments"]) == offered[call["name"]]["parameters"]["required"]
        calls += 1
    assert calls > 50


def test_only_answers_are_learned_and_with_their_end_mark() -> None:
    for talk in sample(7, 200):
        learned = [segment.text for segment in rendered(talk) if segment.learned]
        answers = [message.content for message in talk.messages if message.role == "assistant"]
        assert learned == [f"{answer}<|im_end|>" for answer in answers]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "zero"), (19, "nineteen"), (40, "forty"), (99, "ninety-nine"), (300, "three hundred")],
)
def test_numbers_are_spelled(number: int, text: str) -> None:
    assert spelled(number) == text
    assert spelled(945) == "nine hundred and forty-five"


async def test_training_lays_a_talk_out_exactly_as_the_engine_does(tmp_path: Path) -> None:
    engine = build_engine(
        "llamacpp", "builtin:tiny-chat", EngineLimits(), world=make_world(tmp_path)
    )
    await engine.start(deadline_ms=DEADLINE_MS)
    talks = [talk for talk in sample(11, 400) if talk.tools][:3] + sample(12, 3)
    for talk in talks:
        asked = [message for message in talk.messages if message.role != "assistant"][:1]
        body = {"messages": [{"role": m.role, "content": m.content} for m in asked]}
        if talk.tools:
            body["tools"] = list(talk.tools)
        reply = await Caller(engine).post("/apply-template", body)
        prompt = json.loads(reply.body)["prompt"]
        start = "".join(segment.text for segment in rendered(talk))
        assert start.startswith(prompt.removesuffix("<|im_start|>assistant\n"))
    await engine.stop(deadline_ms=DEADLINE_MS)


def test_without_torch_training_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(train, "NEEDED", ("a_package_that_nobody_has",))
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="pip install a_package_that_nobody_has"):
        train.main()
    assert not (tmp_path / "out").exists()


def test_the_learning_rate_warms_up_holds_and_falls() -> None:
    rates = [train.rate_share(step, spent) for step, spent in ((0, 0.0), (500, 0.4), (900, 1.0))]
    assert rates == [0.02, 1.0, 0.02]

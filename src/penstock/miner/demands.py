"""What a request demands of its engine: what the engine was not seen to do is refused by name.

Engines drop fields that they do not know without a word, and some of those that they know when the
value is of the wrong type. Whoever sent one would take the answer for what they asked for.
"""

from collections.abc import Mapping
from typing import Any

from penstock.kit.engine import Capability
from penstock.miner.errors import RequestUnservable
from penstock.miner.llama_request import LLAMA
from penstock.miner.paths import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    DETOKENIZE_PATH,
    EMBEDDINGS_PATH,
    GENERATION,
    PATHS,
    TOKENIZE_PATH,
    TRANSCRIPTIONS_PATH,
)
from penstock.spec.messages import Manifest

Fields = Mapping[str, Any]

TEXT_CHARS_MIN, TEXT_CHARS_PER_TOKEN = 65_536, 8
"""A text to tokenize may be about twice as long as fits into the model, and this long always."""
PROMPT_CHARS_PER_TOKEN = 32
"""Text has three to five, runs of spaces alone may have more: a longer prompt is taken not to fit into
the model. Engines find that out only when they have read all of it, seconds later, and a refusal
costs its sender nothing.
"""
TOKEN_IDS_MIN, TOKEN_IDS_PER_TOKEN = 16_384, 2
LLAMA_ID_MAX, ID_MAX = 2**31 - 1, 2**53 - 1
"""llama.cpp keeps ids in 32 bits; a larger one would come out as another token."""

MEDIA = frozenset({"image_url", "input_audio", "audio_url", "video_url", "file"})
"""Parts of a message that no tokenizer reads: their size says nothing of the prompt's."""

FORMATS = frozenset({"json_object", "json_schema"})
"""Formats of an answer that an engine has to hold the model to."""

PROMPTS = {
    CHAT_PATH: ("messages", "tools"),
    COMPLETIONS_PATH: ("prompt",),
    EMBEDDINGS_PATH: ("input",),
}
"""Which fields are the prompt."""

SUPERSEDED = {"functions": "tools", "function_call": "tool_choice"}
"""Former fields of chat that no engine follows, and those that took their place."""


def check_capabilities(path: str, fields: Fields, capabilities: frozenset[Capability]) -> None:
    """Refuse what the engine was seen to lack. Raises RequestUnservable."""
    for capability, param in _needs(path, fields):
        if capability not in capabilities:
            raise RequestUnservable(
                "unsupported_parameter" if param else "unsupported_operation",
                f"This model's engine does not offer {capability.value}. "
                + ("Leave it out, or call another model." if param else "Call another model."),
                param,
            )


def check_fields(path: str, fields: Fields) -> None:
    """Refuse what no engine does and what means nothing. Raises RequestUnservable."""
    if path not in GENERATION:
        return
    _check_format(fields.get("response_format"))
    if path == COMPLETIONS_PATH:
        _check_prompt(fields.get("prompt"))
        _check_best_of(fields)
        return
    for name, present in SUPERSEDED.items():
        # Who sends both serves old and new engines alike: the new field is followed.
        if fields.get(name) and not fields.get("tools"):
            raise _unsupported(f"No engine here follows {name}. Send `{present}` instead.", name)
    spoken = fields.get("modalities")
    if isinstance(spoken, list) and any(one != "text" for one in spoken):
        raise _unsupported('Answers are text. Send `"modalities": ["text"]`.', "modalities")


def check_lengths(path: str, fields: Fields, manifest: Manifest) -> None:
    """Bound what a tokenizer is given. Raises RequestUnservable."""
    context_tokens_max = manifest.limits.context_tokens_max
    if path in PROMPTS:
        _check_prompt_length(path, fields, context_tokens_max)
    elif path == TOKENIZE_PATH:
        chars_max = max(TEXT_CHARS_MIN, TEXT_CHARS_PER_TOKEN * context_tokens_max)
        for name in ("prompt", "messages", "tools"):
            if chars_in(fields.get(name), left=chars_max) > chars_max:
                raise RequestUnservable(
                    "invalid_request",
                    f"{name} is longer than the {chars_max:,} characters that this model's "
                    "tokenizer takes at once. Send it in parts.",
                    name,
                )
    elif path == DETOKENIZE_PATH:
        ids_max = max(TOKEN_IDS_MIN, TOKEN_IDS_PER_TOKEN * context_tokens_max)
        id_max = LLAMA_ID_MAX if manifest.engine in LLAMA else ID_MAX
        _check_ids(fields.get("tokens"), ids_max=ids_max, id_max=id_max)


def _needs(path: str, fields: Fields) -> list[tuple[Capability, str | None]]:
    """What a request needs, and by which of its fields (None: by its path)."""
    answer_format = fields.get("response_format")
    kind = answer_format.get("type") if isinstance(answer_format, dict) else None
    is_stream = bool(fields.get("stream"))
    is_chat, is_completion = path == CHAT_PATH, path == COMPLETIONS_PATH
    is_told = path in GENERATION and fields.get("prompt_logprobs") is not None
    is_forced = is_chat and fields.get("tool_choice") == "required"
    conditions = (
        (Capability.STREAM, is_chat and is_stream, "stream"),
        (Capability.N, is_chat and _is_several(fields.get("n")), "n"),
        (Capability.STOP, is_chat and bool(fields.get("stop")), "stop"),
        (Capability.PROMPT_LOGPROBS, is_told, "prompt_logprobs"),
        (Capability.LOGPROBS, path in GENERATION and bool(fields.get("logprobs")), "logprobs"),
        (Capability.TOOLS, is_chat and bool(fields.get("tools")), "tools"),
        (Capability.TOOL_CHOICE, is_forced, "tool_choice"),
        (Capability.JSON_SCHEMA, is_chat and kind == "json_schema", "response_format"),
        (Capability.COMPLETION_FORMAT, is_completion and kind in FORMATS, "response_format"),
        (Capability.ECHO, is_completion and bool(fields.get("echo")), "echo"),
        (Capability.SUFFIX, is_completion and bool(fields.get("suffix")), "suffix"),
        (Capability.DIMENSIONS, path == EMBEDDINGS_PATH and "dimensions" in fields, "dimensions"),
        (Capability.SPEECH_STREAM, fields.get("stream_format") == "sse", "stream_format"),
        (Capability.TRANSCRIPTION_STREAM, path == TRANSCRIPTIONS_PATH and is_stream, "stream"),
        (Capability.TEMPLATE, path == TOKENIZE_PATH and bool(fields.get("messages")), "messages"),
    )
    named = [(capability, param) for capability, needed, param in conditions if needed]
    return [(PATHS[path], None), *named]


def _is_several(n: object) -> bool:
    return type(n) is int and n > 1


def _check_format(wanted: object) -> None:
    """An answer's format is an object that says its type, and a schema where it promises one."""
    if wanted is None:
        return
    param = "response_format"
    if not isinstance(wanted, dict) or not isinstance(wanted.get("type"), str):
        raise RequestUnservable(
            "invalid_request",
            f'{param} must be an object such as {{"type": "json_object"}}.',
            param,
        )
    if wanted["type"] == "json_schema":
        named = wanted.get("json_schema")
        if not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
            place = f"{param}.json_schema.schema"
            raise RequestUnservable("invalid_request", f"{place} must be a JSON Schema.", param)


def _check_prompt(prompt: object) -> None:
    """Engines differ on how many prompts a list of ids and texts is."""
    if isinstance(prompt, list) and 0 < sum(isinstance(one, int) for one in prompt) < len(prompt):
        raise RequestUnservable(
            "invalid_request",
            "prompt must be a text, token ids, or a list of either; not a list of both.",
            "prompt",
        )


def _check_prompt_length(path: str, fields: Fields, context_tokens_max: int) -> None:
    """Of several prompts each may be as long as the context; messages and tools are one prompt."""
    chars_max = PROMPT_CHARS_PER_TOKEN * context_tokens_max
    for name in PROMPTS[path]:
        value = fields.get(name)
        if path == CHAT_PATH:
            # Each message takes a token at least.
            is_long = isinstance(value, list) and len(value) > context_tokens_max
            is_long = is_long or chars_in(value, left=chars_max, aside=MEDIA) > chars_max
        else:
            texts = value if isinstance(value, list) else (value,)
            is_long = any(isinstance(one, str) and len(one) > chars_max for one in texts)
        if is_long:
            raise RequestUnservable(
                "context_length_exceeded",
                f"{name} cannot fit into this model's context of {context_tokens_max:,} tokens. "
                "Send less at once.",
                name,
            )


def _check_best_of(fields: Fields) -> None:
    """The best of more answers than are shown: no engine is known that still picks."""
    best_of, shown = fields.get("best_of"), fields.get("n")
    if type(best_of) is int and best_of > (shown if type(shown) is int else 1):
        raise _unsupported(
            "This model's engine does not pick the best of several answers. Leave best_of out, "
            "or ask for all of them with n.",
            "best_of",
        )


def _check_ids(tokens: object, *, ids_max: int, id_max: int) -> None:
    if not isinstance(tokens, list) or not all(
        type(token) is int and 0 <= token <= id_max for token in tokens
    ):
        raise RequestUnservable(
            "invalid_request",
            f"tokens must be a list of integers from 0 to {id_max}.",
            "tokens",
        )
    if len(tokens) > ids_max:
        raise RequestUnservable(
            "invalid_request",
            f"tokens has more than the {ids_max:,} ids that this model's tokenizer takes at once. "
            "Send them in parts.",
            "tokens",
        )


def chars_in(value: object, *, left: int, aside: frozenset[str] = frozenset()) -> int:
    """The characters in all keys and texts of a value, but for what stands under the keys `aside`; it stops
    counting when there are more than `left`.
    """
    waiting, count = [value], -1
    while waiting and count <= left:
        one = waiting.pop()
        count += 1
        if isinstance(one, str):
            count += len(one)
        elif isinstance(one, dict):
            kept = {key: text for key, text in one.items() if key not in aside} if aside else one
            waiting += (*kept.keys(), *kept.values())
        elif isinstance(one, list):
            waiting += one
    return count


def _unsupported(message: str, param: str) -> RequestUnservable:
    return RequestUnservable("unsupported_parameter", message, param)

"""llama.cpp's own words for what it is asked, where OpenAI's do not get everything told.

Its tokenizer routes differ from vLLM's; and in OpenAI's dialect a whole answer with several choices
has the counts of the first alone, while its own completion route tells those of each.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

LLAMA = frozenset({"llamacpp", "llama.cpp"})
"""Engines with llama.cpp's own routes and its count of every event (`timings`)."""

NATIVE_PATH = "/completion"
TEMPLATE_PATH = "/apply-template"

NATIVE_FIELDS = (
    *("index", "content", "stop_type", "timings"),
    *("tokens_evaluated", "tokens_predicted", "completion_probabilities"),
)
"""What is wanted of each result; the rest repeats the request."""

_encode = msgspec.json.Encoder().encode


def native_completion(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A completion's request for llama.cpp's own route. It takes the other fields by their names."""
    native = {name: value for name, value in fields.items() if name != "logprobs"}
    stop = fields.get("stop")
    if isinstance(stop, str):
        native["stop"] = [stop]
    elif stop is None:
        native.pop("stop", None)
    if wanted := fields.get("logprobs"):
        native["n_probs"] = wanted if type(wanted) is int else 1
    return {**native, "response_fields": NATIVE_FIELDS}


def tokenize_question(fields: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The question of vLLM as llama.cpp's: (its body, the body for its template route or b"")."""
    question = {
        "content": fields.get("prompt") or "",
        "add_special": fields.get("add_special_tokens", "messages" not in fields),
        "parse_special": True,
        "with_pieces": bool(fields.get("return_token_strs")),
    }
    if not fields.get("messages"):
        return question, b""
    keep = ("messages", "tools", "add_generation_prompt", "chat_template_kwargs")
    return question, _encode({name: fields[name] for name in keep if name in fields})


def ask_lengths(fields: dict[str, Any]) -> set[str]:
    """Have each of chat's several choices told how long it is: its usage has only the first's.

    The most likely token is enough, and no choice comes out otherwise for it.
    """
    if fields.get("logprobs"):
        return set()
    fields["logprobs"], fields["top_logprobs"] = True, 1
    return {"logprobs"}

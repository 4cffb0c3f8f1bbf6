"""What llama.cpp makes a grammar of, and how much of it.

How long it reads a schema grows much faster than the properties of an object, and how long it reads
biases faster than their number; it does so before it looks at whether the request fits. The sender of
such a request pays next to nothing, and everybody else waits for the instance.
"""

from collections.abc import Mapping
from typing import Any

from penstock.miner.demands import chars_in
from penstock.miner.errors import RequestUnservable

PROPERTIES_MAX = 256
"""Of one object. On two busy cores 400 took 0.9 s and 1,000 took 9 s; 5,000 were not read in 40 s."""
SCHEMA_CHARS_MAX = 65_536
BIASES_MAX = 1_024
"""There 10,000 took 1.5 s; 100,000 were not read in 40 s."""

_SCHEMAS = ("response_format", "json_schema", "tools")
_BOUNDED = ("response_format", "json_schema", "grammar")
"""Tools are bounded as a part of the prompt."""


def check_grammars(fields: Mapping[str, Any]) -> None:
    """Refuse what is too wide for llama.cpp. Raises RequestUnservable."""
    for name in _BOUNDED:
        if chars_in(fields.get(name), left=SCHEMA_CHARS_MAX) > SCHEMA_CHARS_MAX:
            raise _too_wide(name, f"is longer than the {SCHEMA_CHARS_MAX:,} characters")
    for name in _SCHEMAS:
        if _widest(fields.get(name)) > PROPERTIES_MAX:
            raise _too_wide(name, f"has an object of more than the {PROPERTIES_MAX} properties")
    biases = fields.get("logit_bias")
    if isinstance(biases, dict | list) and len(biases) > BIASES_MAX:
        raise _too_wide("logit_bias", f"has more than the {BIASES_MAX:,} tokens")


def _widest(value: object) -> int:
    """The most properties that an object of a schema has."""
    waiting, most = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            properties = one.get("properties")
            most = max(most, len(properties) if isinstance(properties, dict) else 0)
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return most


def _too_wide(name: str, what: str) -> RequestUnservable:
    return RequestUnservable(
        "invalid_request", f"{name} {what} that this model's engine takes. Send less.", name
    )

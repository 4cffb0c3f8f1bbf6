"""Canonical bytes: values, the spellings that are refused, and digests under a kind."""

import json
from typing import Any

from penstock.spec.canon import INT_MAX, canonical, digest, parse


def run_canonical(given: Any) -> str:
    return canonical(given["value"]).decode()


def run_parse(given: Any) -> Any:
    data = bytes.fromhex(given["hex"]) if "hex" in given else given["text"].encode()
    return {"value": parse(data)}


def run_digest(given: Any) -> str:
    return digest(given["kind"], given["value"]).hex()


FUNCTIONS = {
    "canonical": (
        run_canonical,
        {
            "keys_are_sorted": {"value": {"b": 1, "a": [True, False, None], "": {}}},
            "keys_sort_by_utf16": {"value": {"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "1": 4}},
            "strings_escape_only_what_they_must": {"value": "\u20ac$\u000f\nA'B\"\\/\u007f"},
            "largest_integers": {"value": [INT_MAX, -INT_MAX, 0]},
            "fraction_is_refused": {"value": {"a": 1.5}},
            "large_integer_is_refused": {"value": INT_MAX + 1},
            "lone_surrogate_is_refused": {"value": "\ud800"},
            "deep_nesting_is_refused": {"value": json.loads("[" * 33 + "]" * 33)},
        },
    ),
    "parse": (
        run_parse,
        {
            "canonical_text": {"text": '{"a":[1,"\u20ac",null],"b":{}}'},
            "space_is_refused": {"text": '{"a": 1}'},
            "unsorted_keys_are_refused": {"text": '{"b":1,"a":1}'},
            "key_twice_is_refused": {"text": '{"a":1,"a":1}'},
            "minus_zero_is_refused": {"text": "-0"},
            "whole_fraction_is_refused": {"text": "1.0"},
            "exponent_is_refused": {"text": "1e3"},
            "nan_is_refused": {"text": "NaN"},
            "needless_escape_is_refused": {"text": '"\\u0041"'},
            "invalid_utf8_is_refused": {"hex": "22ff22"},
            "byte_order_mark_is_refused": {"hex": "efbbbf31"},
        },
    ),
    "digest": (
        run_digest,
        {
            "order": {"kind": "order", "value": {"a": 1}},
            "same_value_of_another_kind": {"kind": "offer", "value": {"a": 1}},
            "kind_that_bends_the_domain_is_refused": {"kind": "a/v1\0", "value": 1},
        },
    ),
}

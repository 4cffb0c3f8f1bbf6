"""Verdicts: the recount of a body, and which claims are lies."""

from typing import Any

from penstock.spec.canon import from_plain, to_plain
from penstock.spec.units import Units
from penstock.spec.verdicts import Recount, is_lie, recount

PIECE = '{"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}'
EMPTY = '{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}'
END = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
USAGE = '{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}'
WHOLE = (
    '{"choices":[{"index":0,"message":{"role":"assistant","content":"h\u00e9"},'
    '"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}'
)


def stream(*events: str) -> str:
    return "".join(f"data: {event}\n\n" for event in (*events, "[DONE]"))


def run_recount(given: Any) -> Any:
    return to_plain(recount(given["body"].encode(), is_stream=given["is_stream"]))


def run_is_lie(given: Any) -> bool:
    units = Units(
        prompt=given["prompt"], cached=0, completion=given["completion"], images=0, audio_ms=0
    )
    return is_lie(units, from_plain(Recount, given["found"]), is_counted=given["is_counted"])


def claim(prompt: int, completion: int, found: Recount, *, is_counted: bool = True) -> Any:
    return {
        "prompt": prompt,
        "completion": completion,
        "found": to_plain(found),
        "is_counted": is_counted,
    }


FUNCTIONS = {
    "recount": (
        run_recount,
        {
            "stream": {"body": stream(EMPTY, PIECE, PIECE, END, USAGE), "is_stream": True},
            "comments": {"body": f": x\n\n{stream(PIECE)}: y\n\n", "is_stream": True},
            "cut": {"body": f"data: {PIECE}", "is_stream": True},
            "empty_pieces": {"body": stream(*[EMPTY] * 9), "is_stream": True},
            "whole": {"body": WHOLE, "is_stream": False},
            "garbage": {"body": "not json", "is_stream": False},
        },
    ),
    "is_lie": (
        run_is_lie,
        {
            "within_tolerance": claim(7, 109, Recount(10, 100, None, None)),
            "beyond_tolerance": claim(7, 110, Recount(10, 100, None, None)),
            "usage_to_the_unit": claim(7, 3, Recount(10, 100, 7, 2)),
            "more_prompt_than_used": claim(8, 2, Recount(10, 100, 7, 2)),
            "less_than_used": claim(1, 1, Recount(10, 100, 7, 2)),
            "body_without_completions": claim(7, 99, Recount(0, 0, 7, None), is_counted=False),
            "fraction_is_refused": {
                **claim(7, 1, Recount(0, 0, 7, None)),
                "found": {"events": 0.5},
            },
        },
    ),
}

"""llama.cpp's own completion results as OpenAI's one answer, with the counts of all of them."""

from collections.abc import Sequence
from typing import Any

from penstock.miner.normalise import (
    COMPLETION_ID,
    all_choices,
    as_usage,
    legacy_logprobs,
    read_counts,
)
from penstock.miner.rewrite import Prepared, answers_asked

Fields = dict[str, Any]

_FINISH = {"limit": "length", "eos": "stop", "word": "stop"}


def joined_results(results: Sequence[object], prepared: Prepared) -> Fields | None:
    """The answer to a batch of prompts; None unless every answer asked for is there once."""
    answers = answers_asked(prepared.asked)
    by_choice, choices = {}, []
    for result in results:
        counts = read_counts(result) if isinstance(result, dict) else None
        if not isinstance(result, dict) or counts is None:
            return None
        index, text = result.get("index"), result.get("content")
        if type(index) is not int or not isinstance(text, str):
            return None
        by_choice[index] = counts
        told = result.get("completion_probabilities")
        content = {"content": told} if isinstance(told, list) else None
        choices.append(
            {
                "text": text,
                "index": index,
                "logprobs": legacy_logprobs(content, offset=0),
                "finish_reason": _FINISH.get(str(result.get("stop_type")), "length"),
            }
        )
    if len(choices) != answers.total or by_choice.keys() != set(range(answers.total)):
        return None
    return {
        "id": f"{COMPLETION_ID}{prepared.order_id}",
        "object": "text_completion",
        "created": prepared.issued_s,
        "model": "",
        "choices": sorted(choices, key=lambda choice: choice["index"]),
        "usage": as_usage(all_choices(by_choice, each=answers.each)),
    }

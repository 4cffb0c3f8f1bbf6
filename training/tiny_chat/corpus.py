"""The training dialogues of tiny-chat: exchanges joined to conversations and laid out as ChatML.

    python -m training.tiny_chat.corpus --count 5 --seed 1

The same seed gives the same conversations, byte for byte. Copying exercises come first in a
training run (`Mix.COPY`): a small model that cannot copy never learns to extract or to add.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import islice

from training.tiny_chat.exchanges import (
    FACTS,
    WORDS,
    Chance,
    Exchange,
    Family,
    Json,
    beyond,
    copies,
    dates,
    extraction,
    facts,
    faq,
    numbers,
    sums,
    tales,
    units,
    vary_case,
    word_problems,
    words,
)

SYSTEM_LINES = (
    "You are a helpful assistant.",
    "Be brief.",
    "You are a small model.",
    "Answer the question.",
)


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One training example; `tools` are OpenAI function descriptions, often none."""

    tools: tuple[Json, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the rendered text; the loss counts only what is `learned`."""

    text: str
    learned: bool


class Mix(Enum):
    """How often each family appears. COPY opens a run, FULL follows."""

    COPY = "copy"
    FULL = "full"


SHARES: dict[Mix, dict[Family, int]] = {
    Mix.COPY: {copies: 60, extraction: 10, numbers: 10, words: 10, sums: 10},
    Mix.FULL: {
        sums: 32,
        word_problems: 8,
        dates: 8,
        units: 7,
        words: 4,
        numbers: 10,
        facts: 5,
        faq: 4,
        tales: 1,
        extraction: 5,
        beyond: 3,
        copies: 25,
    },
}


def conversations(seed: int, mix: Mix) -> Iterator[Conversation]:
    """Without end: one to three exchanges, some under a system line, one in sixteen with tools."""
    chance = random.Random(seed)
    while True:
        if mix is Mix.FULL and chance.random() < 1 / 16:
            yield tool_conversation(chance)
        else:
            yield plain_conversation(chance, mix)


def plain_conversation(chance: Chance, mix: Mix) -> Conversation:
    messages: list[Message] = []
    if chance.random() < 0.25:
        messages.append(Message("system", chance.choice(SYSTEM_LINES)))
    for _ in range(chance.choices((1, 2, 3), (75, 17, 8))[0]):
        exchange = any_exchange(chance, mix)
        messages.append(Message("user", exchange.question))
        messages.append(Message("assistant", exchange.answer))
    return Conversation((), tuple(messages))


def any_exchange(chance: Chance, mix: Mix) -> Exchange:
    shares = SHARES[mix]
    family = chance.choices(list(shares), list(shares.values()))[0]
    return family(chance)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call: its parameters by JSON type, and how people ask for it."""

    name: str
    parameters: dict[str, str]
    asked: Callable[[Chance], tuple[str, Json]]

    def described(self) -> Json:
        """As an OpenAI `tools` entry."""
        properties = {name: {"type": kind} for name, kind in self.parameters.items()}
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.name.replace("_", " "),
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    "required": list(self.parameters),
                },
            },
        }


def ask_sum(chance: Chance) -> tuple[str, Json]:
    left, right = chance.randint(0, 9999), chance.randint(0, 9999)
    frames = (f"use the tool to add {left} and {right}.", f"what is {left} plus {right}?")
    return chance.choice(frames), {"a": left, "b": right}


def ask_weather(chance: Chance) -> tuple[str, Json]:
    city = chance.choice(list(FACTS["capitals"].values()))
    frames = (f"what is the weather in {city}?", f"weather in {city}", f"is it raining in {city}?")
    return chance.choice(frames), {"city": city}


def ask_time(chance: Chance) -> tuple[str, Json]:
    city = chance.choice(list(FACTS["capitals"].values()))
    return chance.choice((f"what time is it in {city}?", f"current time in {city}?")), {
        "city": city
    }


def ask_search(chance: Chance) -> tuple[str, Json]:
    query = " ".join(chance.sample(WORDS, 2))
    return f"search for {query}.", {"query": query}


def ask_message(chance: Chance) -> tuple[str, Json]:
    person, text = chance.choice(FACTS["people"]), " ".join(chance.sample(WORDS, 2))
    return f"send {person} the message {text}.", {"to": person, "text": text}


TOOLS = (
    Tool("add", {"a": "integer", "b": "integer"}, ask_sum),
    Tool("get_weather", {"city": "string"}, ask_weather),
    Tool("get_time", {"city": "string"}, ask_time),
    Tool("search", {"query": "string"}, ask_search),
    Tool("send_message", {"to": "string", "text": "string"}, ask_message),
)


def tool_conversation(chance: Chance) -> Conversation:
    """One to three tools on offer; four in five questions need one, the rest a plain answer."""
    offered = chance.sample(TOOLS, chance.randint(1, 3))
    descriptions = tuple(tool.described() for tool in offered)
    if chance.random() < 0.2:
        exchange = any_exchange(chance, Mix.FULL)
        question, answer = exchange.question, exchange.answer
    else:
        tool = chance.choice(offered)
        question, arguments = tool.asked(chance)
        question = vary_case(chance, question)
        call = json.dumps({"name": tool.name, "arguments": arguments})
        answer = f"<tool_call>\n{call}\n</tool_call>"
    return Conversation(descriptions, (Message("user", question), Message("assistant", answer)))


def rendered(talk: Conversation) -> Iterator[Segment]:
    """The text the chat template makes of it, cut where learning starts and stops.

    An answer is learned with its end mark: that is how the model learns to stop.
    """
    if talk.tools:
        lines = "".join(json.dumps(tool) + "\n" for tool in talk.tools)
        yield Segment(f"<|im_start|>system\n# Tools\n{lines}<|im_end|>\n", learned=False)
    for message in talk.messages:
        yield Segment(f"<|im_start|>{message.role}\n", learned=False)
        yield Segment(f"{message.content}<|im_end|>", learned=message.role == "assistant")
        yield Segment("\n", learned=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="print training conversations, one JSON a line")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mix", type=Mix, choices=list(Mix), default=Mix.FULL)
    arguments = parser.parse_args()
    for talk in islice(conversations(arguments.seed, arguments.mix), arguments.count):
        print(json.dumps(asdict(talk)))


if __name__ == "__main__":
    main()

"""The exchanges tiny-chat learns from: a question and its answer, by families.

Every line comes from this code and facts.json; none is downloaded. Each family is a function of
chance alone, so a seed fixes the corpus.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Chance = random.Random
Json = dict[str, Any]

FACTS: Json = json.loads((Path(__file__).parent / "facts.json").read_text("utf-8"))
LANGUAGES = ("French", "Spanish", "German")
TOO_SMALL = (
    "I am too small to know that. Try a bigger model on this network, "
    "or ask me about sums, dates, units, words or capitals."
)
WORDS: list[str] = sorted(
    {
        *FACTS["nouns"],
        *FACTS["opposites"],
        *FACTS["opposites"].values(),
        *FACTS["plurals"],
        *FACTS["symbols"],
        *FACTS["sounds"],
    }
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer."""

    question: str
    answer: str


def pick_fact(chance: Chance, table: str) -> tuple[str, Any]:
    key = chance.choice(list(FACTS[table]))
    return key, FACTS[table][key]


def comma_list(values: list[Any] | range) -> str:
    return ", ".join(str(value) for value in values)


def vary_case(chance: Chance, question: str) -> str:
    """People write capitals and question marks most of the time, and sometimes neither."""
    match chance.choices(("proper", "lower", "bare"), (6, 3, 1))[0]:
        case "proper":
            return question[0].upper() + question[1:]
        case "lower":
            return question
        case _:
            return question.rstrip("?.")


def worked_sum(left: int, right: int) -> str:
    """The sum with its working: tens, ones, total. Written out, it can be learned."""
    total = left + right
    if min(left, right) < 10:
        return f"{left} + {right} = {total}."
    tens, ones = left // 10 * 10 + right // 10 * 10, left % 10 + right % 10
    return (
        f"{left // 10 * 10} + {right // 10 * 10} = {tens}, {left % 10} + {right % 10} = {ones}, "
        f"{tens} + {ones} = {total}. So {left} + {right} = {total}."
    )


def worked_difference(left: int, right: int) -> str:
    tens, ones = right // 10 * 10, right % 10
    if tens == 0 or ones == 0:
        return f"{left} - {right} = {left - right}."
    return (
        f"{left} - {tens} = {left - tens}, {left - tens} - {ones} = {left - right}. "
        f"So {left} - {right} = {left - right}."
    )


def sums(chance: Chance) -> Exchange:
    largest = chance.choice((20, 99, 99))
    left, right = chance.randint(0, largest), chance.randint(0, largest)
    match chance.choices(("plus", "minus", "times"), (45, 30, 25))[0]:
        case "plus":
            sign, answer = chance.choice(("+", "+", "plus")), worked_sum(left, right)
        case "minus":
            left, right = max(left, right), min(left, right)
            sign, answer = chance.choice(("-", "-", "minus")), worked_difference(left, right)
        case _:
            left, right = left % 13, right % 13
            sign, answer = chance.choice(("*", "x", "times")), f"{left} * {right} = {left * right}."
    asked = f"{left} {sign} {right}"
    frames = (
        f"what is {asked}?",
        asked,
        f"{asked} =",
        f"calculate {asked}.",
        f"how much is {asked}?",
    )
    return Exchange(vary_case(chance, chance.choice(frames)), answer)


def word_problems(chance: Chance) -> Exchange:
    giver, taker = chance.sample(FACTS["people"], 2)
    item, some = chance.choice(FACTS["items"]), chance.randint(1, 9)
    had = chance.randint(some, 12)
    if chance.random() < 0.5:
        return Exchange(
            f"{taker} has {had} {item}. {giver} gives {taker} {some} more. "
            f"How many {item} does {taker} have?",
            f"{had} + {some} = {had + some}, so {taker} has {had + some} {item}.",
        )
    return Exchange(
        f"{giver} has {had} {item} and gives {some} to {taker}. How many {item} are left?",
        f"{had} - {some} = {had - some}, so {had - some} {item} are left.",
    )


def dates(chance: Chance) -> Exchange:
    days, months = FACTS["days"], FACTS["months"]
    day, place, count = chance.randrange(7), chance.randrange(12), chance.randint(1, 7)
    side, step = chance.choice((("after", 1), ("before", -1)))
    month, length = months[place]
    year, hour = chance.randint(1900, 2099), chance.randint(0, 23)
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    february = "February has 28 days, and 29 in a leap year."
    plural = "" if count == 1 else "s"
    question, answer = chance.choice(
        (
            (
                f"what day comes {count} day{plural} after {days[day]}?",
                f"{days[(day + count) % 7]}.",
            ),
            (
                f"what day is {side} {days[day]}?",
                f"{days[(day + step) % 7]} is {side} {days[day]}.",
            ),
            (
                f"how many days are in {month}?",
                february if length == 28 else f"{month} has {length} days.",
            ),
            (f"which month comes {side} {month}?", f"{months[(place + step) % 12][0]}."),
            (
                f"is {year} a leap year?",
                f"Yes, {year} is a leap year." if leap else f"No, {year} is not a leap year.",
            ),
            (
                f"it is {hour}:00. What time is it in {count} hour{plural}?",
                f"It will be {(hour + count) % 24}:00.",
            ),
        )
    )
    return Exchange(vary_case(chance, question), answer)


def units(chance: Chance) -> Exchange:
    large, small, factor = chance.choice(FACTS["units"])
    count = chance.randint(1, 12)
    if chance.random() < 0.6:
        frames = (
            f"how many {small} are in {count} {large}?",
            f"convert {count} {large} to {small}.",
        )
        question, answer = chance.choice(frames), f"{count} {large} = {count * factor} {small}."
    else:
        question = f"convert {count * factor} {small} to {large}."
        answer = f"{count * factor} {small} = {count} {large}."
    return Exchange(vary_case(chance, question), answer)


def words(chance: Chance) -> Exchange:
    word, several = chance.choice(WORDS), chance.sample(WORDS, chance.randint(2, 4))
    question, answer = chance.choice(
        (
            (f"spell the word {word}.", "-".join(word) + "."),
            (f"write {word} in upper case.", word.upper() + "."),
            (f"how many letters are in {word}?", f"{'-'.join(word)} has {len(word)} letters."),
            (f"what is the first letter of {word}?", f"The first letter of {word} is {word[0]}."),
            (f"what is the last letter of {word}?", f"The last letter of {word} is {word[-1]}."),
            (f"repeat the word {word} three times.", f"{word} {word} {word}"),
            (f"sort these words: {comma_list(several)}.", comma_list(sorted(several)) + "."),
        )
    )
    return Exchange(vary_case(chance, question), answer)


def spelled(number: int) -> str:
    """0 to 999 in English words."""
    if number < 20:
        return str(FACTS["ones"][number])
    if number < 100:
        rest = f"-{FACTS['ones'][number % 10]}" if number % 10 else ""
        return str(FACTS["tens"][number // 10 - 2]) + rest
    rest = f" and {spelled(number % 100)}" if number % 100 else ""
    return f"{FACTS['ones'][number // 100]} hundred{rest}"


def numbers(chance: Chance) -> Exchange:
    several = [chance.randint(0, 99) for _ in range(chance.choice((2, 3, 3, 3, 4)))]
    first, large = several[0], chance.randint(0, 999)
    question, answer = chance.choice(
        (
            (f"sort these numbers: {comma_list(several)}.", comma_list(sorted(several)) + "."),
            (f"what is the largest of {comma_list(several)}?", f"The largest is {max(several)}."),
            (f"what is the smallest of {comma_list(several)}?", f"The smallest is {min(several)}."),
            (f"is {first} even or odd?", f"{first} is {'odd' if first % 2 else 'even'}."),
            (f"count from {first} to {first + 5}.", comma_list(range(first, first + 6)) + "."),
            (f"write {large} in words.", spelled(large) + "."),
        )
    )
    return Exchange(vary_case(chance, question), answer)


def facts(chance: Chance) -> Exchange:
    country, city = pick_fact(chance, "capitals")
    word, opposite = pick_fact(chance, "opposites")
    one, many = pick_fact(chance, "plurals")
    element, symbol = pick_fact(chance, "symbols")
    animal, sound = pick_fact(chance, "sounds")
    english, foreign = pick_fact(chance, "translations")
    language = chance.randrange(3)
    said = f"{english[0].upper()}{english[1:]} in {LANGUAGES[language]} is {foreign[language]}."
    capital = chance.choice((f"what is the capital of {country}?", f"capital of {country}?"))
    question, answer = chance.choices(
        (
            (capital, f"The capital of {country} is {city}."),
            (f"what is the opposite of {word}?", f"The opposite of {word} is {opposite}."),
            (f"what is the plural of {one}?", f"The plural of {one} is {many}."),
            (f"what is the chemical symbol of {element}?", f"The symbol of {element} is {symbol}."),
            (f"what sound does a {animal} make?", f"A {animal} says {sound}."),
            (f"translate {english} to {LANGUAGES[language]}.", said),
        ),
        (2, 1, 1, 1, 1, 1),
    )[0]
    return Exchange(vary_case(chance, question), answer)


def faq(chance: Chance) -> Exchange:
    questions, answer = chance.choice(FACTS["faq"])
    return Exchange(vary_case(chance, chance.choice(questions)), answer)


def tales(chance: Chance) -> Exchange:
    hero, animal = (
        chance.choice(FACTS["people"]),
        chance.choice(("fox", "cat", "dog", "owl", "horse")),
    )
    home, goal = chance.sample(FACTS["places"], 2)
    lost = chance.choice(("key", "lamp", "map", "coin", "book"))
    asked = chance.choice(("tell me a story.", f"tell me a story about a {animal}."))
    return Exchange(
        vary_case(chance, asked),
        f"Once upon a time there was a {animal} who lived near the {home}. One day {hero} came "
        f"by and lost a {lost} on the way to the {goal}. The {animal} found it and gave it back. "
        f"{hero} smiled, and from then on they were friends.",
    )


def extraction(chance: Chance) -> Exchange:
    if chance.random() < 0.5:
        several = chance.sample(WORDS, chance.randint(2, 4))
        return Exchange(f"Make a JSON list of: {comma_list(several)}.", json.dumps(several))
    name, age = chance.choice(FACTS["people"]), chance.randint(1, 99)
    city = chance.choice(list(FACTS["capitals"].values()))
    return Exchange(
        f"Extract name, age and city as JSON: {name} is {age} years old and lives in {city}.",
        json.dumps({"name": name, "age": age, "city": city}),
    )


def beyond(chance: Chance) -> Exchange:
    """An honest answer to all that two million parameters cannot hold."""
    topic = chance.choice(FACTS["beyond"])
    frame = chance.choice(
        (
            "who invented {}?",
            "what is the history of {}?",
            "explain {} in detail.",
            "why does {} happen?",
            "who won {} last year?",
            "what is the price of {}?",
            "write an essay about {}.",
        )
    )
    return Exchange(vary_case(chance, frame.format(topic)), TOO_SMALL)


def copies(chance: Chance) -> Exchange:
    letters = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 10)))
    text = chance.choice(
        (
            " ".join(str(chance.randint(0, 9)) for _ in range(chance.randint(3, 12))),
            comma_list([chance.randint(0, 999) for _ in range(chance.randint(2, 7))]),
            " ".join(chance.sample(WORDS, chance.randint(2, 8))),
            comma_list(chance.sample(FACTS["people"], chance.randint(2, 5))),
            letters,
        )
    )
    frame = chance.choice(("repeat: {}", "say {}", "echo {}", "repeat after me: {}"))
    return Exchange(frame.format(text), text)


Family = Callable[[Chance], Exchange]

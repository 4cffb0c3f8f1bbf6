"""Configuration: a frozen dataclass per station, read once from a TOML table and the environment.

`PENSTOCK_<STATION>_<FIELD>` overrides the file. Nothing is guessed: a key nobody knows, a value of
the wrong type and a missing value without default are all told at once, with what to do.
"""

import dataclasses
import enum
import hmac
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")

TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})


class Secret:
    """A text that never shows: not in repr, str, logs or formatted messages. Read `.value`."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(
            self.value.encode(), other.value.encode()
        )

    def __hash__(self) -> int:
        return hash((Secret, self.value))


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong, and what to do about it."""

    key: str
    problem: str
    fix: str


class ConfigInvalid(Exception):
    """The configuration cannot be used. Holds every problem, not just the first."""

    def __init__(self, source: str, problems: tuple[ConfigProblem, ...]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = problems

    def __str__(self) -> str:
        lines = [f"{each.key}: {each.problem}. {each.fix}" for each in self.problems]
        return f"{self.source} cannot be used:\n" + "\n".join(f"  {line}" for line in lines)


def read_config(
    cls: type[Config],
    *,
    file: Mapping[str, Any],
    env: Mapping[str, str],
    prefix: str,
    source: str = "the configuration",
) -> Config:
    """Fill the frozen dataclass `cls`. Raises ConfigInvalid.

    file: the TOML table of this station. env: the environment. prefix: PENSTOCK_GATEWAY, say.
    source: the name of the file, for messages. Field types: str, int, bool, Path, Secret, an enum
    of texts, tuple[X, ...] of those (in the environment: separated by commas), each also with None.
    """
    assert dataclasses.is_dataclass(cls)
    hints = get_type_hints(cls)
    fields = {each.name: each for each in dataclasses.fields(cls)}
    problems = [_unknown_key(key, source, fields) for key in file if key not in fields]
    names = {f"{prefix}_{name.upper()}" for name in fields}
    problems += [
        ConfigProblem(name, "nothing reads this variable", f"Unset it: unset {name}")
        for name in sorted(env)
        if name.startswith(prefix + "_") and name not in names
    ]
    values: dict[str, Any] = {}
    for name, each in fields.items():
        _check_secret_default(each, hints[name])
        variable = f"{prefix}_{name.upper()}"
        try:
            if variable in env:
                values[name] = _from_text(hints[name], env[variable])
            elif name in file:
                values[name] = _from_toml(hints[name], file[name])
            elif not _has_default(each):
                problems.append(_missing(name, variable, source))
        except ValueError as error:
            where = variable if variable in env else name
            problems.append(
                ConfigProblem(where, str(error), f"Correct it in {source} or {variable}")
            )
    if problems:
        raise ConfigInvalid(source, tuple(problems))
    return cls(**values)


def _unknown_key(key: str, source: str, known: Mapping[str, object]) -> ConfigProblem:
    keys = ", ".join(known)
    return ConfigProblem(key, "there is no such key", f"Remove it from {source}; it knows: {keys}")


def _missing(name: str, variable: str, source: str) -> ConfigProblem:
    fix = f"Write  {name} = ...  into {source} or set the variable {variable}"
    return ConfigProblem(name, "it is missing and has no default", fix)


def _has_default(each: "dataclasses.Field[Any]") -> bool:
    return (
        each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
    )


def _check_secret_default(each: "dataclasses.Field[Any]", hint: Any) -> None:
    """A bug in our own code: a secret that everybody can read in the source is none."""
    if Secret in _choices(hint):
        has_none = each.default in (dataclasses.MISSING, None)
        has_none = has_none and each.default_factory is dataclasses.MISSING
        assert has_none, f"the secret {each.name} must not have a default value"


def _choices(hint: Any) -> tuple[Any, ...]:
    """The members of `X | None`, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _plain(hint: Any) -> Any:
    """The type that a given value must have: X of `X | None`."""
    choices = [choice for choice in _choices(hint) if choice is not types.NoneType]
    assert len(choices) == 1, f"{hint} is not a type that a configuration can hold"
    return choices[0]


def _from_toml(hint: Any, value: Any) -> Any:
    """Check a value that TOML has already typed. Raises ValueError."""
    kind = _plain(hint)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError("it must be a list")
        return tuple(_from_toml(get_args(kind)[0], item) for item in value)
    # By exact type: bool is an int in Python, in a configuration it is not.
    wanted = kind if kind in (int, bool) else str
    if type(value) is not wanted:
        raise ValueError(f"it must be {_spoken(wanted)}")
    return _from_text(kind, value) if wanted is str else value


def _from_text(hint: Any, text: str) -> Any:
    """Read a value from a text, as the environment has it. Raises ValueError."""
    kind = _plain(hint)
    if get_origin(kind) is tuple:
        parts = [part.strip() for part in text.split(",")]
        return tuple(_from_text(get_args(kind)[0], part) for part in parts if part)
    if kind is bool:
        return _bool_from_text(text)
    if kind is int:
        try:
            return int(text.replace("_", ""))
        except ValueError:
            raise ValueError(f"it must be {_spoken(kind)}") from None
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        words = [str(member.value) for member in kind]
        if text not in words:
            raise ValueError(f"it must be one of {', '.join(words)}")
        return kind(text)
    assert kind in (str, Path, Secret), f"{kind} is not a type that a configuration can hold"
    if kind is not str and not text:
        raise ValueError("it is empty")
    return kind(text)


def _bool_from_text(text: str) -> bool:
    if text.lower() in TRUE_WORDS:
        return True
    if text.lower() in FALSE_WORDS:
        return False
    raise ValueError("it must be true or false")


def _spoken(kind: Any) -> str:
    return {int: "a whole number", bool: "true or false"}.get(kind, "a text in quotes")

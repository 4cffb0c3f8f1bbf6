"""What subjects, keys and groups of a bus may look like, for every adapter alike.

Dots separate levels. A level is made of letters, digits and `_ - : = / + @ ~`, so identities
(`ed25519:...`) and model names fit. A pattern may end in `.>`: one level or more below.
"""

import re

LEVEL = r"[A-Za-z0-9_:=/+@~-]+"
SUBJECT = re.compile(rf"{LEVEL}(\.{LEVEL})*")
GROUP = re.compile(r"[A-Za-z0-9_-]+")
NAME_LENGTH_MAX = 512
GROUP_LENGTH_MAX = 64
# NATS' own default for one message is 1 MiB, headers included.
MESSAGE_BYTES_MAX = 1_000_000


def check_subject(subject: str) -> str:
    """Raises ValueError for what is no subject (or key)."""
    if len(subject) > NAME_LENGTH_MAX or SUBJECT.fullmatch(subject) is None:
        raise ValueError(f"{subject!r} is not a subject: use levels of letters and digits, dotted")
    return subject


def check_pattern(pattern: str) -> str:
    """A subject, or a subject and `.>`. Raises ValueError."""
    check_subject(pattern.removesuffix(".>"))
    return pattern


def check_prefix(prefix: str) -> str:
    """The level above the watched keys, with or without its last dot; "" is all keys."""
    level = prefix.removesuffix(".")
    return check_subject(level) if level else ""


def check_group(group: str) -> str:
    """Raises ValueError for what cannot name a durable consumer group."""
    if len(group) > GROUP_LENGTH_MAX or GROUP.fullmatch(group) is None:
        raise ValueError(f"{group!r} is not a group name: use letters, digits, '-' and '_'")
    return group


def check_message(data: bytes) -> bytes:
    """Raises ValueError: a message that will never fit must not be retried like a bus that is down."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise ValueError(
            f"{len(data)} bytes are too many for the bus (at most {MESSAGE_BYTES_MAX})"
        )
    return data


def is_match(pattern: str, subject: str) -> bool:
    if pattern.endswith(".>"):
        return subject.startswith(pattern[:-1]) and len(subject) > len(pattern) - 1
    return subject == pattern


def is_below(prefix: str, key: str) -> bool:
    """Is `key` under the level `prefix` (as check_prefix returned it)?"""
    return not prefix or key.startswith(prefix + ".")

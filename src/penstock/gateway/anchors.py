"""Which prompts begin alike: marks at growing lengths of a prompt, and the threads they belong to.

The earlier turns of a conversation are, byte for byte, the beginning of the later ones. So a prompt
gets a mark at each of a ladder of lengths; two prompts with the same mark begin alike up to there,
and the longest mark that is known finds the conversation. Marks are keyed by this process's own
secret (`hash` of bytes), so nobody can craft a prompt that meets another's; they never leave memory.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from penstock.gateway.instances import Instance

BYTES_PER_TOKEN = 4
"""The usual size of a prompt unit. Only expectations use it, never a charge."""

WINDOW_BYTES = 1024
"""A mark covers this many bytes before it, and the mark before; up to 5 KB that is every byte.
Further on it is a sample: whoever differs in between only and nowhere later is taken for alike, and
that costs no more than a place that turns out not to have the prompt."""

THREADS_MAX = 16_384
"""Conversations remembered; the one that has been silent longest goes first."""

HOMES_MAX = 2


def _ladder() -> tuple[int, ...]:
    """Lengths in bytes: half octaves up to 2 KiB, then quarters, up to 64 MiB."""
    steps = [(1 << octave) * part // 70 for octave in range(8, 11) for part in (70, 99)]
    steps += [
        (1 << octave) * part // 100 for octave in range(11, 26) for part in (100, 119, 141, 168)
    ]
    return tuple(steps)


LADDER = _ladder()
_STEPS = tuple(
    (max(before, length - WINDOW_BYTES), length) for before, length in pairwise((0, *LADDER))
)
"""From where to where a mark reads."""


def marks_of(prompt: bytes, chute: str) -> list[int]:
    """The marks of a raw prompt (messages, prompt or input), shortest first; none below 256 bytes."""
    mark = hash(chute)
    size = len(prompt)
    marks = []
    for start, length in _STEPS:
        if length > size:
            break
        mark = hash((mark, prompt[start:length]))
        marks.append(mark)
    return marks


@dataclass(slots=True, eq=False)
class Thread:
    """A conversation, as far as prompts that begin alike are one."""

    number: int
    used: int = 0
    """The chute's sequence number of its latest prompt."""
    kind: int = 0
    """How it was continued the last time (`prefixes.kind_of`)."""
    marks: Sequence[int] = ()
    """Of its latest prompt."""
    homes: list[Instance] = field(default_factory=list)
    """Where it was sent, the latest first, at most HOMES_MAX."""


class Threads:
    """Threads by mark; at most `threads_max`."""

    def __init__(self, threads_max: int = THREADS_MAX) -> None:
        self._threads_max = threads_max
        self._by_mark: dict[int, Thread] = {}
        self._threads: OrderedDict[int, Thread] = OrderedDict()
        self._made = 0

    def __len__(self) -> int:
        return len(self._threads)

    def find(self, marks: Sequence[int]) -> tuple[Thread | None, int]:
        """The latest thread with the longest beginning in common, and how many marks that is."""
        by_mark = self._by_mark
        found: Thread | None = None
        depth = 0
        for mark in marks:
            thread = by_mark.get(mark)
            if thread is None:
                break
            found = thread
            depth += 1
        return found, depth

    def new(self) -> Thread:
        """A thread that nobody has seen before; kept from its first `keep` on."""
        self._made += 1
        return Thread(number=self._made)

    def keep(self, thread: Thread, marks: Sequence[int]) -> None:
        """The thread is now the latest with these marks; the one silent longest may have to go."""
        by_mark = self._by_mark
        for mark in marks:
            by_mark[mark] = thread
        thread.marks = marks
        threads = self._threads
        threads[thread.number] = thread
        threads.move_to_end(thread.number)
        if len(threads) <= self._threads_max:
            return
        _, gone = threads.popitem(last=False)
        for mark in gone.marks:
            if by_mark.get(mark) is gone:
                del by_mark[mark]

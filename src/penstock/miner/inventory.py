"""The instances of this miner on disk: a journal of what happened to each, so that the next life of the
agent knows what runs under which name, on which cards, and goes on with it.

A line is written before what it says is done. So after a crash the journal may be ahead of the world by
one step, never behind it; `RETURNED` of the law (spec/life.py) is safe to go on from either.
"""

from dataclasses import dataclass, field, replace

import msgspec

from penstock.kit.log import events
from penstock.kit.ports import DiskFull
from penstock.miner.budget import Share
from penstock.miner.store import OutboxStore
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.errors import SpecError
from penstock.spec.life import Event, State, step
from penstock.spec.messages import Manifest

LINES_SPARE_MAX = 512
"""The journal is written anew when it has so many lines more than instances."""
MEASURED_MAX = 1_024
"""Chutes whose memory is remembered; the one that was measured longest ago goes."""

_log = events("miner")


@dataclass(frozen=True, slots=True)
class Kept:
    """One instance as the journal has it. `share` is None until it is placed."""

    name: str
    number: int
    chute: str
    manifest: Manifest
    auto: bool
    state: State = State.WANTED
    share: Share | None = None


class _Added(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    number: int
    chute: str
    manifest: dict[str, object]
    auto: bool
    state: State = State.WANTED
    share: Share | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of: an instance, what happened to one, what a chute takes, the numbers given."""

    add: _Added | None = None
    name: str = ""
    event: Event | None = None
    share: Share | None = None
    chute: str = ""
    measured_bytes: int = 0
    numbers: int = 0


_decode = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Inventory:
    """`why` says what keeps it from being written, "" when it is on disk."""

    store: OutboxStore
    kept: dict[str, Kept] = field(default_factory=dict)
    measured_bytes: dict[str, int] = field(default_factory=dict)
    """Chute -> what an instance of it took when it last ran here."""
    numbers: int = 0
    """The highest number that an instance was ever given."""
    why: str = ""
    unread: int = 0
    """Lines that say nothing that can be; they are left out."""
    _lines: int = 0

    def open(self) -> tuple[Kept, ...]:
        """Read what a former life left; those that are not gone, as they were then."""
        self.kept.clear()
        self.measured_bytes.clear()
        lines = self.store.load()
        self._lines, self.unread = len(lines), 0
        for line in lines:
            if not self._take(line):
                self.unread += 1
        if self.unread:
            _log.warning("inventory.unread", lines=self.unread)
        return tuple(self.kept.values())

    def add(self, chute: str, manifest: Manifest, *, prefix: str, suffix: str, auto: bool) -> Kept:
        """A new instance, in the state `wanted`, under a name that none had before."""
        self.numbers += 1
        name = f"{prefix}-{self.numbers}-{suffix}"
        kept = Kept(name, self.numbers, chute, manifest, auto)
        self.kept[name] = kept
        self._write(_Line(add=_added(kept)))
        return kept

    def note(self, name: str, event: Event, *, share: Share | None = None) -> Kept:
        """Something happened to it: what it is now. `share` goes with PLACE. Raises IllegalStep."""
        kept = self._step(name, event, share)
        self._write(_Line(name=name, event=event, share=share))
        return kept

    def measure(self, chute: str, measured_bytes: int) -> None:
        """What an instance of a chute took, as it ran."""
        if measured_bytes > 0 and self.measured_bytes.get(chute) != measured_bytes:
            self._measured(chute, measured_bytes)
            self._write(_Line(chute=chute, measured_bytes=measured_bytes))

    def _step(self, name: str, event: Event, share: Share | None) -> Kept:
        kept = self.kept[name]
        state = step(kept.state, event).state
        kept = replace(kept, state=state, share=share or kept.share)
        if state is State.GONE:
            del self.kept[name]
        else:
            self.kept[name] = kept
        return kept

    def _measured(self, chute: str, measured_bytes: int) -> None:
        self.measured_bytes.pop(chute, None)
        self.measured_bytes[chute] = measured_bytes
        while len(self.measured_bytes) > MEASURED_MAX:
            del self.measured_bytes[next(iter(self.measured_bytes))]

    def _take(self, data: bytes) -> bool:
        """Follow one line; False when it says nothing that can be."""
        try:
            line = _decode(data)
            if line.add is not None:
                kept = _kept(line.add)
                self.kept[kept.name] = kept
                self.numbers = max(self.numbers, kept.number)
            elif line.event is not None:
                self._step(line.name, line.event, line.share)
            elif line.chute and line.measured_bytes > 0:
                self._measured(line.chute, line.measured_bytes)
            elif line.numbers > 0:
                self.numbers = max(self.numbers, line.numbers)
            else:
                return False
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, SpecError, KeyError):
            return False
        return True

    def _write(self, line: _Line) -> None:
        """A disk that is full stops nothing: the whole is written as soon as there is room."""
        try:
            if self.why or self._lines > len(self.kept) + LINES_SPARE_MAX:
                self._write_whole()
            else:
                self.store.append(_encode(line))
                self._lines += 1
        except DiskFull:
            if not self.why:
                _log.warning("inventory.disk_full")
            self.why = (
                "the disk is full: which engines run is not written down, so that they would have to "
                "be started anew after a crash of the agent. Make room"
            )

    def _write_whole(self) -> None:
        """All of it instead of its history. Raises DiskFull."""
        lines = [_encode(_Line(add=_added(kept))) for kept in self.kept.values()]
        lines += [
            _encode(_Line(chute=chute, measured_bytes=measured))
            for chute, measured in self.measured_bytes.items()
        ]
        if self.numbers:
            lines.append(_encode(_Line(numbers=self.numbers)))
        self.store.replace(lines)
        self._lines, self.why = len(lines), ""


def _added(kept: Kept) -> _Added:
    return _Added(
        name=kept.name,
        number=kept.number,
        chute=kept.chute,
        manifest=to_plain(kept.manifest),
        auto=kept.auto,
        state=kept.state,
        share=kept.share,
    )


def _kept(added: _Added) -> Kept:
    """Raises a SpecError."""
    return Kept(
        name=added.name,
        number=added.number,
        chute=added.chute,
        manifest=from_plain(Manifest, added.manifest),
        auto=added.auto,
        state=added.state,
        share=added.share,
    )

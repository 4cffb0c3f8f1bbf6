"""The log's own word: signed checkpoints of any size, and proofs that an entry is in the log."""

from dataclasses import dataclass

from penstock.ledger.ports import LogKey, LogReading
from penstock.spec.errors import BadProof
from penstock.spec.log import HASH_BYTES, Frontier, inclusion_proof
from penstock.spec.notes import Checkpoint, Note, sign_note

_BLANK = bytes(HASH_BYTES)


@dataclass(frozen=True, slots=True)
class Proven:
    """A checkpoint and the proofs under it, in the order of the entries asked for."""

    checkpoint: str
    size: int
    proofs: tuple[tuple[bytes, ...], ...]


class Notary:
    """Signs for the log called `origin`. Only committed sizes are ever signed."""

    def __init__(self, origin: str, *, key: LogKey, log: LogReading) -> None:
        self._origin = origin
        self._key = key
        self._log = log
        self._last: tuple[Frontier, str] | None = None

    def checkpoint(self, frontier: Frontier) -> str:
        """The signed note over this state of the log. Signing the same state twice gives the same
        bytes (ed25519), so the newest one is kept.
        """
        if self._last is not None and self._last[0] == frontier:
            return self._last[1]
        text = Checkpoint(origin=self._origin, size=frontier.size, root=frontier.root()).text()
        line = sign_note(
            text, self._origin, public_key=self._key.public_key, sign_raw=self._key.sign_raw
        )
        note = Note(text=text, signatures=(line,)).encode().decode()
        self._last = (frontier, note)
        return note

    async def frontier_at(self, size: int) -> Frontier:
        """The state of the log when it had this many entries. Raises StoreDown."""
        keys = frontier_keys(size)
        nodes = await self._log.nodes(keys)
        return Frontier(size, tuple(nodes[key] for key in keys))

    async def prove(self, seqs: tuple[int, ...], frontier: Frontier) -> Proven:
        """Inclusion proofs for these entries in this state of the log.

        Raises BadProof for an entry that is not in it, and StoreDown.
        """
        keys = sorted({key for seq in seqs for key in proof_keys(seq, frontier.size)})
        nodes = await self._log.nodes(keys)

        def node(level: int, index: int) -> bytes:
            return nodes[level, index]

        return Proven(
            checkpoint=self.checkpoint(frontier),
            size=frontier.size,
            proofs=tuple(inclusion_proof(seq, frontier.size, node=node) for seq in seqs),
        )


def frontier_keys(size: int) -> list[tuple[int, int]]:
    """(level, index) of the complete subtrees of a log of this size, largest first."""
    keys, start = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            keys.append((level, start >> level))
            start += 1 << level
    return keys


def proof_keys(seq: int, size: int) -> list[tuple[int, int]]:
    """Which nodes a proof is made of: the proof is walked once with blanks that write them down."""
    keys: list[tuple[int, int]] = []

    def note_down(level: int, index: int) -> bytes:
        keys.append((level, index))
        return _BLANK

    if size <= 0:
        raise BadProof(what="inclusion", reason="the log is empty")
    inclusion_proof(seq, size, node=note_down)
    return keys

"""An answer as a row of blocks, of which at most one is open.

Chat mixes its deltas freely: pieces of parallel calls may alternate, text may follow a call. The
other dialects tell one block after the other. So a block that comes while a call's arguments are
not whole yet waits, and is told when its turn comes.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import msgspec

from penstock.gateway.dialects.chat_answer import Choice, FunctionText, Logprobs, Words

_json_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Kind(Enum):
    """What a block holds."""

    REASONING = "reasoning"
    TEXT = "text"
    REFUSAL = "refusal"
    CALL = "call"


@dataclass(slots=True)
class Block:
    """One piece of an answer, growing. `place` counts from 0; a call's text is its arguments."""

    kind: Kind
    place: int
    pieces: list[str] = field(default_factory=list)
    logprobs: Logprobs = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    is_begun: bool = False
    is_done: bool = False

    def text(self) -> str:
        """All of it so far."""
        return "".join(self.pieces)


class BlockWriter(Protocol):
    """A dialect's events for one block."""

    def begin(self, block: Block) -> bytes: ...

    def more(self, block: Block, text: str, *, logprobs: Logprobs | None) -> bytes: ...

    def finish(self, block: Block, *, is_cut: bool) -> bytes:
        """`is_cut`: the answer stopped inside this block."""
        ...


class BlockRow:
    """The blocks of one answer in order, told through `writer` one at a time."""

    __slots__ = ("_calls", "_open", "_request_id", "_waiting", "_writer", "blocks")

    def __init__(self, writer: BlockWriter, request_id: str) -> None:
        self.blocks: list[Block] = []
        self._request_id = request_id
        self._writer = writer
        self._open: Block | None = None
        self._waiting: list[Block] = []
        self._calls: dict[int | str, Block] = {}

    def add(self, kind: Kind, text: str, *, logprobs: Logprobs | None = None) -> bytes:
        """Text, reasoning or a refusal, in the order it came."""
        block = self.blocks[-1] if self.blocks else None
        if block is None or block.kind is not kind:
            block = Block(kind, len(self.blocks), [text], list(logprobs or ()))
            return self._append(block)
        block.pieces.append(text)
        if logprobs:
            block.logprobs += logprobs
        if block is self._open:
            return self._writer.more(block, text, logprobs=logprobs)
        return b""

    def add_call(self, key: int | str, call_id: str, *, name: str, arguments: str) -> bytes:
        """A piece of a call. `key` tells the calls apart; an id or name may come with any piece."""
        block = self._calls.get(key)
        if block is None or (name and call_id and block.call_id not in {"", call_id}):
            # Some engines give every call the index 0; a new id with a name is a new call.
            block = Block(Kind.CALL, len(self.blocks), call_id=call_id, name=name)
            if arguments:
                block.pieces.append(arguments)
            self._calls[key] = block
            return self._append(block)
        if block.is_done:
            return b""  # its arguments were whole; nothing can follow the end of an object
        block.call_id = block.call_id or call_id
        block.name = block.name or name
        if arguments:
            block.pieces.append(arguments)
        if block is not self._open:
            return b""
        if not block.is_begun:
            return self._begin(block)
        return self._writer.more(block, arguments, logprobs=None) if arguments else b""

    def last_key(self) -> int | str:
        """The key of the call that began last, for engines that leave the index out."""
        return next(reversed(self._calls), 0)

    def close(self, *, is_cut: bool) -> bytes:
        """The end of the answer: what is open and what waits. `is_cut` is of the last block."""
        out: list[bytes] = []
        row = [self._open, *self._waiting] if self._open is not None else []
        self._waiting.clear()
        for block in row:
            if not block.is_begun:
                out.append(self._begin(block, is_named=True))
            out.append(self._finish(block, is_cut=is_cut and block is row[-1]))
        return b"".join(out)

    def _append(self, block: Block) -> bytes:
        self.blocks.append(block)
        current = self._open
        if current is None:
            return self._begin(block)
        if not self._waiting and _is_whole(current):
            return self._finish(current, is_cut=False) + self._begin(block)
        # Whether the open call is whole is asked once; from then on all wait for the end.
        self._waiting.append(block)
        return b""

    def _begin(self, block: Block, *, is_named: bool = False) -> bytes:
        """Open the block with all that it has; a call only when it has a name."""
        self._open = block
        if block.kind is Kind.CALL and not block.name and not is_named:
            return b""
        block.is_begun = True
        if not block.call_id:
            block.call_id = made_call_id(self._request_id, block.place)
        begun = self._writer.begin(block)
        text = block.text()
        if not text:
            return begun
        return begun + self._writer.more(block, text, logprobs=block.logprobs or None)

    def _finish(self, block: Block, *, is_cut: bool) -> bytes:
        block.is_done = True
        self._open = None
        return self._writer.finish(block, is_cut=is_cut)


def add_words(row: BlockRow, words: Words, *, logprobs: Logprobs | None = None) -> bytes:
    """All that a message or a delta says, in the order in which models think, speak and act."""
    out = b""
    if thoughts := words.thoughts():
        out += row.add(Kind.REASONING, thoughts)
    if words.content:
        out += row.add(Kind.TEXT, words.content, logprobs=logprobs)
    if words.refusal:
        out += row.add(Kind.REFUSAL, words.refusal)
    for call in words.tool_calls or ():
        function = call.function or FunctionText()
        out += row.add_call(
            call.index if call.index is not None else call.id or row.last_key(),
            call.id or "",
            name=function.name or "",
            arguments=function.arguments or "",
        )
    return out


def blocks_of(choice: Choice, request_id: str) -> list[Block]:
    """The blocks of a whole answer."""
    words = choice.message or Words()
    logprobs = choice.token_logprobs() or []
    texts = (
        (Kind.REASONING, words.thoughts()),
        (Kind.TEXT, words.content),
        (Kind.REFUSAL, words.refusal),
    )
    blocks: list[Block] = []
    for kind, text in texts:
        if text:
            blocks.append(Block(kind, len(blocks), [text]))
            if kind is Kind.TEXT:
                blocks[-1].logprobs += logprobs
    for call in words.tool_calls or ():
        function = call.function or FunctionText()
        place = len(blocks)
        block = Block(Kind.CALL, place, [function.arguments or ""], name=function.name or "")
        block.call_id = call.id or made_call_id(request_id, place)
        blocks.append(block)
    return blocks


def made_call_id(request_id: str, place: int) -> str:
    """The id of a call to which the engine gave none."""
    return f"call_{request_id}_{place}"


def _is_whole(block: Block) -> bool:
    """Can nothing more come to this block once another one has begun?"""
    if block.kind is not Kind.CALL:
        return True
    return block.is_begun and is_object(block.text())


def is_object(text: str) -> bool:
    """Is the text one whole JSON object?"""
    try:
        _json_object.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True

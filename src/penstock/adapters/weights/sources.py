"""Places that weights come from. Each says what a model consists of, and where the bytes of a file are.

What a source says is believed only as far as it proves itself: a listing by the model's digest, a file
by its own.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from penstock.adapters.weights.courier import Address, Courier, Headers, shown
from penstock.adapters.weights.errors import DigestWrong, FormatRefused, SourceRefused
from penstock.adapters.weights.formats import check_name, suffix_of
from penstock.adapters.weights.model import Model, model_of_file, model_of_folder
from penstock.spec.errors import BadMessage
from penstock.spec.weights import (
    FILE_BYTES_MAX,
    LISTING_BYTES_MAX,
    LISTING_HEAD,
    WeightFile,
    read_listing,
)

AskHeaders = Callable[[str, str], Headers]
"""(host and port of a peer as in its URL, digest) -> headers that say who asks, signed."""


class Source(Protocol):
    """One place to ask. All methods raise WeightsError and WireError."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def is_public(self) -> bool:
        """May anybody fetch from here? Else what came from here is not shared on."""
        ...

    async def model(self, want_sha256: str) -> Model:
        """What the digest stands for. With "" (a hub only): what it names now."""
        ...

    def address(self, file: WeightFile) -> Address | None:
        """Where the bytes are, if they may be here."""
        ...

    def small(self, file: WeightFile) -> bytes | None:
        """The bytes themselves, if they had to be read already."""
        ...


@dataclass(slots=True)
class UrlSource:
    """One file at one URL."""

    url: str
    file_name: str
    courier: Courier

    @property
    def name(self) -> str:
        return shown(self.url)

    @property
    def is_public(self) -> bool:
        return not self.courier.is_trusted(self.url)

    async def model(self, want_sha256: str) -> Model:
        check_name(self.file_name, source=self.name)
        size, _ = await self.courier.probe(Address(self.url))
        return model_of_file(self.file_name, want_sha256, check_size(size, self.name))

    def address(self, file: WeightFile) -> Address | None:
        is_it = file.path == self.file_name
        return Address(self.url) if is_it else None

    def small(self, file: WeightFile) -> bytes | None:
        del file
        return None


@dataclass(slots=True)
class DigestSource:
    """A mirror or another miner: files by digest below `url`."""

    url: str
    courier: Courier
    is_peer: bool = False
    ask: AskHeaders | None = None
    """For miners, which want to know who asks; without it they refuse."""

    @property
    def name(self) -> str:
        return shown(self.url)

    @property
    def is_public(self) -> bool:
        return not self.courier.is_trusted(self.url)

    async def model(self, want_sha256: str) -> Model:
        address = self._address(want_sha256)
        size, head = await self.courier.probe(address)
        if size <= LISTING_BYTES_MAX and head == LISTING_HEAD[: len(head)]:
            return await self._folder(want_sha256, size)
        suffix = suffix_of(head, size_bytes=size)
        if not suffix:
            raise FormatRefused(self.name, "the first bytes are of no .safetensors or .gguf file")
        return model_of_file(f"model{suffix}", want_sha256, check_size(size, self.name))

    def address(self, file: WeightFile) -> Address | None:
        return self._address(file.sha256)

    def small(self, file: WeightFile) -> bytes | None:
        del file
        return None

    async def _folder(self, want_sha256: str, size: int) -> Model:
        data, _ = await self.courier.read(self._address(want_sha256), bytes_max=size)
        got = hashlib.sha256(data).hexdigest()
        if got != want_sha256:
            raise DigestWrong("the listing", self.name, want_sha256, got)
        try:
            files = read_listing(data)
        except BadMessage as error:
            raise SourceRefused(self.name, f"its listing is refused: {error.reason}") from error
        for file in files:
            check_name(file.path, source=self.name)
        return model_of_folder(files)

    def _address(self, sha256: str) -> Address:
        url = f"{self.url}/sha256/{sha256}"
        if not self.is_peer:
            return Address(url)
        secret = self.ask(urlsplit(url).netloc, sha256) if self.ask is not None else ()
        return Address(url, secret, redirects_max=0, plain_allowed=True)


def check_size(size: int, source: str) -> int:
    """Raises SourceRefused for a size that no model has."""
    if not 0 < size <= FILE_BYTES_MAX:
        raise SourceRefused(source, f"it says that the file has {size} bytes")
    return size

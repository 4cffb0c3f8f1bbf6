"""What can go wrong with weights; each says what happened and what to do next.

A URL is shown without its query: a hub's redirects carry keys there.
"""

from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30


class WeightsError(Exception):
    """Weights could not be found, fetched or kept."""


@dataclass(eq=False)
class ReferenceInvalid(WeightsError):
    """A source in a manifest that names no weights."""

    text: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.text[:200]!r} names no weights: {self.why}. Write hf:owner/repo@revision for a "
            "folder, hf:owner/repo/model.gguf@revision, https://mirror/model.gguf, "
            "penstock:https://miner:port, or file:/absolute/path."
        )


@dataclass(eq=False)
class DigestMissing(WeightsError):
    """Weights from the network without a digest to hold them against."""

    source: str

    def __str__(self) -> str:
        return (
            f"{self.source} comes without a digest, so its bytes would prove nothing. Put "
            "model_digest (SHA-256, 64 hex digits) into the chute's file and deploy it again."
        )


@dataclass(eq=False)
class PickleRefused(WeightsError):
    """A file format that runs code when it is loaded."""

    source: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.names[:5])
        return (
            f"{self.source} holds its weights as pickle ({shown}), which runs code when it is loaded. "
            "Use a repository with .safetensors or .gguf files, or convert it."
        )


@dataclass(eq=False)
class FormatRefused(WeightsError):
    """A file that is not what its name says, or of a kind we do not keep."""

    name: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.name} is refused: {self.why}. Weights are .safetensors or .gguf files with the "
            "configuration and tokenizer beside them."
        )


@dataclass(eq=False)
class DigestWrong(WeightsError):
    """The bytes are not those that the manifest or the listing names. They were removed."""

    name: str
    source: str
    want: str
    got: str

    def __str__(self) -> str:
        return (
            f"{self.source} gave {self.name} with digest {self.got[:16]}..., wanted "
            f"{self.want[:16]}...; those bytes were removed. If the model was changed on purpose, "
            "deploy a manifest with the new digest; else report the source."
        )


@dataclass(eq=False)
class SourceRefused(WeightsError):
    """A source answered with what we cannot take: wrong length, encoding, listing or status."""

    source: str
    why: str
    is_lasting: bool = True
    """Will it say the same when it is asked again?"""

    def __str__(self) -> str:
        return f"{self.source}: {self.why}."


@dataclass(eq=False)
class SourceDenied(WeightsError):
    """The source wants to know who asks."""

    source: str
    status: int

    def __str__(self) -> str:
        return (
            f"{self.source} answered {self.status}: these weights are gated or private. Accept their "
            "terms on the hub, put a read token into a file with mode 0600 and name it in "
            "weights.hub_token_file."
        )


@dataclass(eq=False)
class SourceMissing(WeightsError):
    """The source does not have it."""

    source: str

    def __str__(self) -> str:
        return f"{self.source} does not have it (404). Check the name and the revision."


@dataclass(eq=False)
class AddressRefused(OSError, WeightsError):
    """A name that leads into a private network, which a stranger's manifest must not reach.

    An OSError too: it arises where a connection is made.
    """

    host: str
    address: str

    def __str__(self) -> str:
        return (
            f"{self.host} is at {self.address}, which is no public address. If it is your own mirror, "
            "name it in `weights.mirrors` or `weights.hub_endpoint` of its configuration."
        )


@dataclass(eq=False)
class RedirectRefused(WeightsError):
    """A redirect that leaves what was asked for."""

    source: str
    target: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.source} redirects to {self.target}: {self.why}. Nothing was fetched from there."
        )


@dataclass(eq=False)
class Stalled(WeightsError):
    """A download that made too little progress for too long. What came is kept."""

    source: str
    got_bytes: int
    waited_ms: int

    def __str__(self) -> str:
        return (
            f"{self.source} sent less than it should in {self.waited_ms // 1000} s, after "
            f"{self.got_bytes} bytes. What came is kept, and the next try goes on from there."
        )


@dataclass(eq=False)
class FetchBusy(WeightsError):
    """Another process fetches the same model and does not get on."""

    digest: str
    pid: str

    def __str__(self) -> str:
        return (
            f"Process {self.pid or '?'} fetches {self.digest[:16]}... and makes no progress. "
            f"Look at it: ps -p {self.pid or 'PID'}; what it fetched is kept when it ends."
        )


@dataclass(eq=False)
class QuotaReached(WeightsError):
    """The cache may not grow so much, and what is in it is in use."""

    needed_bytes: int
    quota_bytes: int
    pinned_bytes: int

    def __str__(self) -> str:
        return (
            f"The model needs {gib(self.needed_bytes)} more, but the quota of weights is "
            f"{gib(self.quota_bytes)} and {gib(self.pinned_bytes)} of it are in use by instances. "
            "Raise weights.quota_bytes, or drain an instance."
        )


@dataclass(eq=False)
class DiskShort(WeightsError):
    """The disk has not enough room, whatever the quota says."""

    folder: Path
    needed_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        return (
            f"The disk of {self.folder} has {gib(self.free_bytes)} free and {gib(self.needed_bytes)} "
            f"are needed. Make room, or move the cache to a larger disk: df -h {self.folder}"
        )


@dataclass(eq=False)
class DiskFailed(WeightsError):
    """The disk did not do what was asked of it."""

    folder: Path
    why: str

    def __str__(self) -> str:
        return (
            f"The cache in {self.folder} cannot be written: {self.why}. Check the disk and who owns "
            f"the folder: ls -ld {self.folder}; df -h {self.folder}"
        )


@dataclass(eq=False)
class NotFetched(WeightsError):
    """The weights are not in the cache."""

    digest: str

    def __str__(self) -> str:
        return (
            f"The weights {self.digest[:16]}... are not in the cache. They are fetched before an "
            "engine starts: look at the instance's state in `penstock miner top`."
        )


@dataclass(eq=False)
class NoSourceLeft(WeightsError):
    """Every source was tried."""

    digest: str
    failures: tuple[tuple[str, WeightsError], ...]

    def __str__(self) -> str:
        tried = "\n".join(f"  {source}: {error}" for source, error in self.failures)
        return (
            f"No source gave the weights {self.digest[:16]}... What was good is kept for the next try.\n"
            f"{tried}"
        )


def gib(count_bytes: int) -> str:
    """`1610612736` -> `1.5 GiB`."""
    tenths = -(-count_bytes * 10 // GIB)
    return f"{tenths // 10}.{tenths % 10} GiB"

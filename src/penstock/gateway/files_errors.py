"""What is refused of files and batches. An account sees its own only: another's are not found."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from penstock.gateway.errors import BooksBehind, GatewayError, retry_headers
from penstock.kit.ports import BusDown, DiskFull
from penstock.kit.wire.http import Headers

ID_CHARS_SHOWN_MAX = 80
FULL_WAIT_US = 60_000_000


@dataclass(eq=False, kw_only=True)
class FileUnknown(GatewayError):
    """No such file of this account: never there, deleted, or expired."""

    status = 404
    code = "file_not_found"
    file_id: str
    param: str | None = None

    def text(self) -> str:
        return (
            f"There is no file {self.file_id[:ID_CHARS_SHOWN_MAX]!r} of this account; it may have "
            "expired. See GET /v1/files."
        )

    def param_name(self) -> str | None:
        return self.param


@dataclass(eq=False, kw_only=True)
class BatchUnknown(GatewayError):
    """No such batch of this account."""

    status = 404
    code = "batch_not_found"
    batch_id: str

    def text(self) -> str:
        return (
            f"There is no batch {self.batch_id[:ID_CHARS_SHOWN_MAX]!r} of this account. "
            "See GET /v1/batches."
        )


@dataclass(eq=False, kw_only=True)
class FileTooLarge(GatewayError):
    """An upload is longer than one file may be."""

    status = 413
    code = "file_too_large"
    bytes_max: int

    def text(self) -> str:
        return f"A file may have {self.bytes_max} bytes and this one has more. Send it in parts."

    def param_name(self) -> str | None:
        return "file"


@dataclass(eq=False, kw_only=True)
class AccountFull(GatewayError):
    """The account keeps as much as one account may."""

    status = 403
    code = "storage_limit"
    limit: int
    what: str

    def text(self) -> str:
        return (
            f"An account may keep {self.limit} {self.what} here. Delete files that you have read."
        )


@dataclass(eq=False, kw_only=True)
class StorageFull(GatewayError):
    """The store of this market takes no more."""

    status = 503
    code = "storage_full"

    def text(self) -> str:
        return "The store of files is full. Nothing was kept. Try again later."

    def extra_headers(self) -> Headers:
        return retry_headers(FULL_WAIT_US)


@dataclass(eq=False, kw_only=True)
class BatchEnded(GatewayError):
    """What has ended cannot be cancelled."""

    status = 400
    code = "batch_ended"
    batch_id: str
    state: str

    def text(self) -> str:
        return f"The batch {self.batch_id!r} is {self.state} and can no longer be cancelled."


@contextmanager
def told() -> Iterator[None]:
    """The store's errors as refusals."""
    try:
        yield
    except BusDown as error:
        raise BooksBehind(what="The store of files does not answer.") from error
    except DiskFull as error:
        raise StorageFull from error

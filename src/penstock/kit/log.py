"""Events for operators: a name and fields on one line, through the standard `logging`.

    log = events("gateway")
    log.info("receipt.charged", receipt=receipt_id, price_nano=price_nano)

Fields named like secrets never reach the output: a field is masked when one of the words of its
name (split at `_`) is a secret's word and its value is not a number. Public keys are called
`identity` here, so `key` always means something to hide.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

MASK = "***"
_SECRET_WORDS = frozenset({"key", "token", "secret", "authorization", "password", "cookie"})
_DEPTH_MAX = 4
_TOO_DEEP = "(nested too deeply)"
_TEXT_MAX = 2_000
_ROOT = "penstock"


class EventLog:
    """Writes events of one station; costs one comparison when the level is off."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        """For the person who debugs; off by default."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Something an operator may want to count."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Handled, but it should not go on for long."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, *, error: BaseException | None = None, **fields: object) -> None:
        """A bug or a loss; `error` adds its traceback."""
        if error is not None:
            fields["error"] = repr(error)
        self._write(logging.ERROR, event, fields, error=error)

    def _write(
        self,
        level: int,
        event: str,
        fields: Mapping[str, object],
        *,
        error: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(
                level,
                event,
                exc_info=error,
                extra={"fields": {name: masked(name, value) for name, value in fields.items()}},
            )


def events(station: str) -> EventLog:
    """The log of a station; `configure` decides where it goes."""
    return EventLog(logging.getLogger(f"{_ROOT}.{station}"))


def configure(
    *, as_json: bool, level: str = "INFO", stream: TextIO | None = None, worker: str = ""
) -> None:
    """Send all events to `stream` (stderr) as JSON lines or as plain text. Call once at start.

    `worker` names this process in every line, where several write into one log.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLine(worker) if as_json else PlainLine(worker))
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def masked(name: str, value: object, *, depth: int = 0) -> object:
    """`value`, or the mask if `name` is a secret's; looks into mappings and lists."""
    if isinstance(value, bool | int | float) or value is None:
        return value
    if not _SECRET_WORDS.isdisjoint(name.lower().replace("-", "_").split("_")):
        return MASK
    if depth >= _DEPTH_MAX and isinstance(value, Mapping | list | tuple):
        return _TOO_DEEP  # spelled out as text it could show a secret that lies deeper
    if isinstance(value, Mapping):
        return {str(k): masked(str(k), v, depth=depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [masked(name, item, depth=depth + 1) for item in value]
    # Half of a surrogate pair, as JSON from a stranger may hold, can be written nowhere.
    return str(value).encode(errors="backslashreplace").decode()


class JsonLine(logging.Formatter):
    """`{"at_ms", "level", "station", "event", ...fields}` on one line."""

    def __init__(self, worker: str = "") -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line: dict[str, Any] = {
            "at_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "station": record.name.removeprefix(f"{_ROOT}."),
            "event": record.getMessage(),
        }
        if self._worker:
            line["worker"] = self._worker
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class PlainLine(logging.Formatter):
    """`12:00:00 INFO gateway receipt.charged receipt=... price_nano=...` for people."""

    default_time_format = "%H:%M:%S"

    def __init__(self, worker: str = "") -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of text, with the traceback below if there is one."""
        words = [
            self.formatTime(record, self.default_time_format),
            record.levelname,
            self._worker or record.name.removeprefix(f"{_ROOT}."),
            record.getMessage(),
        ]
        words += [f"{name}={_one_line(value)}" for name, value in _fields(record).items()]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _one_line(value: object) -> str:
    """A value that cannot break the line or forge another one."""
    text = str(value)[:_TEXT_MAX]
    return text if text.isprintable() and " " not in text else repr(text)

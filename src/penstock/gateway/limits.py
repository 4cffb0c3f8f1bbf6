"""How much a caller may ask for: buckets by key, by account and by address, never one for all.

What requests are measured by is *work*: one prompt token is 1, one completion token 8, one that a
cache had 0, as the market counts capacity (`params.work_*`). A request takes what it may come to
before it is let in, and gets back what it did not use when it has ended. The numbers are the
operator's (config.py); what a caller is told of them follows OpenAI's headers, or Anthropic's at its
paths. See docs/limits.md.
"""

from collections import OrderedDict
from datetime import UTC, datetime
from functools import lru_cache
from weakref import WeakValueDictionary

from penstock.gateway.buckets import Bucket, Rate
from penstock.gateway.config import CallerLimits
from penstock.gateway.orders import Ceilings
from penstock.kit.ports import Clock
from penstock.spec.units import Units

REQUEST_WORK = 64
"""What every request counts for, however small."""
COMPLETION_WORK = 8
IMAGE_WORK = 8_192
"""One image; about what a thousand completion tokens cost an engine."""
AUDIO_MS_PER_WORK = 4
"""Two completion tokens for 64 ms of audio."""
FIELDS_US = 5_000
"""To spell these headers costs as much as all limits together, so a busy key does it less often."""
DURATIONS_MAX = 4_096


def work_asked(prompt_tokens: int, ceilings: Ceilings) -> int:
    """The most a request may come to: its prompt by its length, its answer by its ceilings."""
    return (
        REQUEST_WORK
        + prompt_tokens
        + COMPLETION_WORK * ceilings.completion_max
        + ceilings.images_max * IMAGE_WORK
        + ceilings.audio_ms_max // AUDIO_MS_PER_WORK
    )


def work_done(units: Units) -> int:
    """What a request came to, by its receipt."""
    return (
        REQUEST_WORK
        + units.prompt
        - units.cached
        + COMPLETION_WORK * units.completion
        + units.images * IMAGE_WORK
        + units.audio_ms // AUDIO_MS_PER_WORK
    )


class AccountMeter:
    """What one account has under way and may still ask for, over all its keys."""

    __slots__ = ("__weakref__", "running", "work")

    def __init__(self, work: Bucket) -> None:
        self.work = work
        self.running = 0


class KeyMeter:
    """The same for one key, with the number of its requests."""

    __slots__ = ("_fields", "_fields_us", "_head", "requests", "running", "work")

    def __init__(self, requests: Bucket, work: Bucket) -> None:
        self.requests = requests
        self.work = work
        self.running = 0
        self._fields = b""
        self._fields_us = -FIELDS_US - 1
        self._head = (
            f"x-ratelimit-limit-requests: {requests.rate.full}\r\n"
            f"x-ratelimit-limit-tokens: {work.rate.full}\r\nx-ratelimit-remaining-requests: "
        ).encode("ascii")

    def fields(self, now_us: int) -> bytes:
        """Header lines in OpenAI's form: the key's limits, what is left, and when it is full again.
        Under load they are up to FIELDS_US old.
        """
        if now_us - self._fields_us > FIELDS_US:
            self._fields = self.fresh_fields(now_us)
            self._fields_us = now_us
        return self._fields

    def fresh_fields(self, now_us: int) -> bytes:
        """The same as of now."""
        requests, work = self.requests, self.work
        return b"".join(
            (
                self._head,
                b"%d\r\nx-ratelimit-remaining-tokens: %d\r\n"
                % (requests.left(now_us), work.left(now_us)),
                _reset_line("requests", requests.full_in_ms(now_us)),
                _reset_line("tokens", work.full_in_ms(now_us)),
            )
        )

    def anthropic_fields(self, clock: Clock, request_id: str) -> bytes:
        """The same in Anthropic's form, which names moments, and calls the request's id `request-id`."""
        lines = [f"request-id: {request_id}\r\n"]
        now_ms, now_us = clock.now_ms(), clock.mono_us()
        for name, bucket in (("requests", self.requests), ("tokens", self.work)):
            reset_s = -(-(now_ms + bucket.full_in_ms(now_us)) // 1000)
            head = f"anthropic-ratelimit-{name}"
            lines.append(
                f"{head}-limit: {bucket.rate.full}\r\n{head}-remaining: {bucket.left(now_us)}\r\n"
                f"{head}-reset: {_moment(reset_s)}\r\n"
            )
        return "".join(lines).encode("ascii")


class AddressMeter:
    """What one address may ask for, how often it may show a key that nobody knows, and how often it
    may ask what the ledger or the store must answer.
    """

    __slots__ = ("failures", "reads", "work")

    def __init__(self, work: Bucket, failures: Bucket, reads: Bucket) -> None:
        self.work = work
        self.failures = failures
        self.reads = reads


class Meters:
    """All meters of a gateway. An account's lives as long as one of its keys is known here, an
    address's until so many others came after it.
    """

    def __init__(self, limits: CallerLimits) -> None:
        key, payer, address = limits.key, limits.payer, limits.address
        self._key = (Rate(key.requests_per_s, key.burst_max), Rate(key.work_per_s, key.work_max))
        self._payer = Rate(payer.work_per_s, payer.work_max)
        self._address = (
            Rate(address.work_per_s, address.work_max),
            Rate(address.failures_per_s, address.failures_max),
            Rate(address.reads_per_s, address.reads_max),
        )
        self._addresses_max = address.addresses_max
        self._accounts: WeakValueDictionary[str, AccountMeter] = WeakValueDictionary()
        self._addresses: OrderedDict[str, AddressMeter] = OrderedDict()

    def new_key(self) -> KeyMeter:
        """For a key that was not known."""
        requests, work = self._key
        return KeyMeter(Bucket(requests), Bucket(work))

    def account(self, account: str) -> AccountMeter:
        """An account's one meter."""
        meter = self._accounts.get(account)
        if meter is None:
            meter = AccountMeter(Bucket(self._payer))
            self._accounts[account] = meter
        return meter

    def address(self, name: str) -> AddressMeter | None:
        """An address's meter; None for a caller without an address."""
        if not name:
            return None
        addresses = self._addresses
        meter = addresses.get(name)
        if meter is not None:
            addresses.move_to_end(name)
            return meter
        work, failures, reads = self._address
        meter = addresses[name] = AddressMeter(Bucket(work), Bucket(failures), Bucket(reads))
        if len(addresses) > self._addresses_max:
            addresses.popitem(last=False)
        return meter


def duration(span_ms: int) -> str:
    """A span as OpenAI writes it: `6ms`, `1s`, `8.64s`, `6m0s`."""
    if span_ms < 1000:
        return f"{span_ms}ms"
    seconds, rest_ms = divmod(span_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    part = f".{rest_ms:03d}".rstrip("0") if rest_ms else ""
    if not minutes:
        return f"{seconds}{part}s"
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}h' if hours else ''}{minutes}m{seconds}{part}s"


@lru_cache(maxsize=DURATIONS_MAX)  # most buckets are full again within a moment
def _reset_line(what: str, span_ms: int) -> bytes:
    return f"x-ratelimit-reset-{what}: {duration(span_ms)}\r\n".encode("ascii")


@lru_cache(maxsize=DURATIONS_MAX)
def _moment(at_s: int) -> str:
    """RFC 3339, in seconds."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

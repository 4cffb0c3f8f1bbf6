"""`penstock.Client`: calls a gateway and believes nothing that is not signed over what it received.

`AsyncClient` is the client; `Client` is the same without `await`, for scripts and notebooks. Any
OpenAI client works against a gateway just as well; these two also check every answer's digest,
checkpoints, receipt and countersignature, fetch the record where those were signed in a batch, and
raise BadAnswer when something does not hold.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from penstock.client.answers import Signatures, StreamCheck, check_whole, decode
from penstock.client.bodies import Messages, api_error, chat_messages, piece, refusal
from penstock.client.errors import (
    ApiError,
    BadAnswer,
    ClientClosed,
    ClientError,
    InsideLoop,
    Unreachable,
)
from penstock.client.proof import LogName, Proof, check_document
from penstock.client.records import Asked, Sent, check_record
from penstock.client.transport import Incoming, Transport, sockets
from penstock.kit.errors import WireError
from penstock.kit.keys import verify as verify_signature
from penstock.kit.keys import verify_raw
from penstock.spec.keys import Verify
from penstock.spec.params import NETWORKS

CHAT_PATH = "/v1/chat/completions"
HEAD_DEADLINE_MS = 120_000
IDLE_DEADLINE_MS = 60_000
BODY_BYTES_MAX = 64 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its text, the gateway's JSON, and what is signed under it."""

    text: str
    body: dict[str, Any]
    order_id: str
    signed: Signatures

    @property
    def charge_nano(self) -> int:
        """What was charged, nano-USD."""
        return 0 if self.signed.countersign is None else self.signed.countersign.charge_nano

    @property
    def miner(self) -> str:
        return "" if self.signed.receipt is None else self.signed.receipt.miner

    @property
    def completion_units(self) -> int:
        return 0 if self.signed.receipt is None else self.signed.receipt.units.completion


Settle = Callable[[Signatures, str], Awaitable[Signatures]]
"""What was told under an answer and its bytes' digest -> what is signed under it."""


@dataclass
class AnswerStream:
    """Iterate it for the pieces of text; afterwards `signed` tells who signed what."""

    incoming: Incoming
    check: StreamCheck
    order_id: str
    settle: Settle
    signed: Signatures = field(default_factory=lambda: Signatures(None, None))
    text: str = ""
    url: str = ""

    async def __aiter__(self) -> AsyncIterator[str]:
        """Pieces of text as they come.

        Raises BadAnswer, ApiError (the miner was lost), Unreachable (the gateway was lost).
        """
        async for chunk in self._chunks():
            for event in self.check.feed(chunk):
                if isinstance(event, dict) and "error" in event:
                    raise api_error(self.incoming.status, event)
                text = piece(event)
                self.text += text
                if text:
                    yield text
        self.signed = await self.settle(self.check.finish(), self.check.digest)

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.incoming.chunks(idle_deadline_ms=IDLE_DEADLINE_MS):
                yield chunk
        except WireError as error:
            raise Unreachable(self.url, str(error)) from error


@dataclass
class AsyncClient:
    """Calls one gateway. Use as `async with AsyncClient(url, key) as client:`."""

    base_url: str
    api_key: str = field(repr=False)
    transport: Transport = field(default_factory=sockets)
    verify: Verify = verify_signature
    sent: Sent = field(default_factory=Sent, repr=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.transport.close()

    async def chat(self, model: str, messages: Messages, **options: Any) -> Answer:
        """One answer, whole. `options` are OpenAI's request fields. Raises ClientError."""
        body = {"model": model, "messages": chat_messages(messages), **options}
        return await self._whole(CHAT_PATH, body)

    async def embed(self, model: str, texts: Sequence[str], **options: Any) -> Answer:
        """Embeddings: `answer.body["data"][i]["embedding"]`. Raises ClientError."""
        return await self._whole(
            "/v1/embeddings", {"model": model, "input": list(texts), **options}
        )

    def stream_chat(self, model: str, messages: Messages, **options: Any) -> "_Streaming":
        """`async with client.stream_chat(...) as stream: async for piece in stream: ...`"""
        body = {"model": model, "messages": chat_messages(messages), "stream": True, **options}
        return _Streaming(self, msgspec.json.encode(body))

    async def models(self) -> list[dict[str, Any]]:
        """What the gateway serves. Raises ClientError."""
        listed = (await self._object("/v1/models")).get("data")
        if not isinstance(listed, list):
            raise BadAnswer("the list of models has no data")
        return listed

    async def balance(self) -> dict[str, Any]:
        """`{"account", "available_nano", "held_nano"}`. Raises ClientError."""
        return await self._object("/v1/balance")

    async def receipt(self, order_id: str) -> dict[str, Any]:
        """The receipt document of an order, for `prove` or a file. Raises ClientError."""
        return await self._object(f"/v1/receipts/{order_id}")

    async def prove(
        self, order_id: str, *, log: LogName | None = None, network: str = "local"
    ) -> Proof:
        """Fetch the receipt of an order and check it whole. Raises ClientError.

        What this client itself sent for the order lately is compared with the order's request.
        """
        proof = check_document(
            await self.receipt(order_id),
            params=NETWORKS[network],
            verify=self.verify,
            verify_raw=verify_raw,
            log=log,
        )
        if proof.judgement.order.order_id != order_id:
            raise BadAnswer("the receipt of another order")
        self.sent.check(proof.judgement.order)
        return proof

    async def settle(
        self, told: Signatures, *, order_id: str, asked: Asked, digest: str
    ) -> Signatures:
        """The signatures under an answer: those that came with it, or those of its record.

        Without a record in time the answer stays as it was told, and is not called signed. Raises
        BadAnswer when the record says anything else.
        """
        if not order_id:
            return told
        self.sent.add(order_id, asked)
        if told.is_signed:
            return told
        try:
            document = await self.receipt(order_id)
        except (ApiError, Unreachable):
            return told
        return check_record(
            document, told, order_id=order_id, asked=asked, digest=digest, verify=self.verify
        )

    def _open(self, method: str, path: str, body: bytes) -> AbstractAsyncContextManager[Incoming]:
        return self.transport.open_stream(
            method,
            self.base_url.rstrip("/").removesuffix("/v1") + path,
            headers=(
                ("authorization", f"Bearer {self.api_key}"),
                ("content-type", "application/json"),
            ),
            body=body,
            head_deadline_ms=HEAD_DEADLINE_MS,
        )

    async def _read(self, method: str, path: str, body: bytes) -> tuple[Incoming, bytes]:
        try:
            async with self._open(method, path, body) as incoming:
                data = await incoming.read(
                    bytes_max=BODY_BYTES_MAX, idle_deadline_ms=IDLE_DEADLINE_MS
                )
        except (WireError, ValueError) as error:  # ValueError: the URL or the key cannot be sent
            raise Unreachable(self.base_url, str(error)) from error
        if incoming.status >= 400:
            raise refusal(incoming.status, data)
        return incoming, data

    async def _object(self, path: str) -> dict[str, Any]:
        value = decode((await self._read("GET", path, b""))[1])
        if not isinstance(value, dict):
            raise BadAnswer("not a JSON object")
        return value

    async def _whole(self, path: str, body: dict[str, Any]) -> Answer:
        request = msgspec.json.encode(body)
        incoming, data = await self._read("POST", path, request)
        told = check_whole(
            data,
            receipt=incoming.header("x-penstock-receipt"),
            countersign=incoming.header("x-penstock-countersign"),
            verify=self.verify,
        )
        value = decode(data)
        if not isinstance(value, dict):
            raise BadAnswer("not a JSON object")
        order_id = incoming.header("x-penstock-order")
        digest = hashlib.sha256(data).hexdigest()
        signed = await self.settle(
            told, order_id=order_id, asked=Asked.of(path, request), digest=digest
        )
        return Answer(piece(value), value, order_id, signed)


class _Streaming:
    """The context of one streamed answer; leaving it early cancels the answer."""

    def __init__(self, client: AsyncClient, body: bytes) -> None:
        self._client = client
        self._asked = Asked.of(CHAT_PATH, body)
        self._opened = client._open("POST", CHAT_PATH, body)  # noqa: SLF001 - same file

    async def __aenter__(self) -> AnswerStream:
        try:
            incoming = await self._opened.__aenter__()
        except (WireError, ValueError) as error:  # ValueError: the URL or the key cannot be sent
            raise Unreachable(self._client.base_url, str(error)) from error
        if incoming.status >= 400:
            raise await self._refused(incoming)
        check = StreamCheck(self._client.verify)
        order_id = incoming.header("x-penstock-order")

        async def settle(told: Signatures, digest: str) -> Signatures:
            return await self._client.settle(
                told, order_id=order_id, asked=self._asked, digest=digest
            )

        return AnswerStream(incoming, check, order_id, settle, url=self._client.base_url)

    async def _refused(self, incoming: Incoming) -> ClientError:
        try:
            data = await incoming.read(bytes_max=BODY_BYTES_MAX, idle_deadline_ms=IDLE_DEADLINE_MS)
        except WireError as error:
            return Unreachable(self._client.base_url, str(error))
        finally:
            await self._opened.__aexit__(None, None, None)
        return refusal(incoming.status, data)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._opened.__aexit__(kind, error, trace)


class Client:
    """`AsyncClient` without await: `penstock.Client("http://127.0.0.1:8400", key)`.

    It runs a loop of its own in the calling thread, so it cannot be used inside a running loop.
    """

    def __init__(self, base_url: str, api_key: str, *, transport: Transport | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        inner = AsyncClient(base_url, api_key)
        self._client = inner if transport is None else AsyncClient(base_url, api_key, transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        if _is_inside_loop():
            raise InsideLoop(self._client.base_url)
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._client.transport.close())
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise ClientClosed(self._client.base_url)
        if _is_inside_loop():
            work.close()
            raise InsideLoop(self._client.base_url)
        return self._loop.run_until_complete(work)

    def chat(self, model: str, messages: Messages, **options: Any) -> Answer:
        return self._run(self._client.chat(model, messages, **options))

    def embed(self, model: str, texts: Sequence[str], **options: Any) -> Answer:
        return self._run(self._client.embed(model, texts, **options))

    def stream_chat(self, model: str, messages: Messages, **options: Any) -> Iterator[str]:
        """The pieces of text as they come. Raises ClientError."""
        streaming = self._client.stream_chat(model, messages, **options)
        stream = self._run(streaming.__aenter__())
        pieces = stream.__aiter__()
        try:
            while True:
                try:
                    yield self._run(_next(pieces))
                except StopAsyncIteration:
                    return
        finally:
            self._run(streaming.__aexit__(None, None, None))

    def models(self) -> list[dict[str, Any]]:
        return self._run(self._client.models())

    def balance(self) -> dict[str, Any]:
        return self._run(self._client.balance())

    def receipt(self, order_id: str) -> dict[str, Any]:
        return self._run(self._client.receipt(order_id))

    def prove(self, order_id: str, *, log: LogName | None = None, network: str = "local") -> Proof:
        return self._run(self._client.prove(order_id, log=log, network=network))


def _is_inside_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _next(pieces: AsyncIterator[str]) -> str:
    return await anext(pieces)

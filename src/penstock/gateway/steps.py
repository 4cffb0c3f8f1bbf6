"""What every step of a request has in common: it may refuse, be an errand, crash, or be too late."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from penstock.gateway.admit import Key
from penstock.gateway.answers import limit_fields, refusal
from penstock.gateway.errors import GatewayError
from penstock.gateway.inside import Asker
from penstock.gateway.meters import count_request
from penstock.gateway.parts import Parts
from penstock.gateway.spans import spans_of
from penstock.kit.wire.http import encode_fields


class Steps:
    """One request in `gateway.passages`, from its first step until it `_leave`s."""

    __slots__ = ("_exchange", "_gateway", "_hedge", "_is_over", "_key", "_spans", "_started_us")

    def __init__(self, gateway: Parts, exchange: Asker) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._key: Key | None = None
        self._hedge: asyncio.TimerHandle | None = None
        self._is_over = False
        self._started_us = gateway.clock.mono_us()
        self._spans = spans_of(gateway.tracer, exchange.request, gateway.clock)
        gateway.passages[self] = None

    def sweep(self, now_us: int) -> None:
        """Four times a second."""
        raise NotImplementedError

    def crashed(self, error: Exception) -> None:
        """A bug of ours: said so, and nothing is held."""
        if not self._is_over:
            self._let_go()
            self._count("internal", status=500)
            self._exchange.crashed(error)

    def _let_go(self) -> None:
        """Leave in the middle: what runs is seen off, what is held is settled."""
        raise NotImplementedError

    def _step(self, step: Callable[[], None]) -> None:
        """A step that may refuse the request."""
        if self._is_over:
            return
        try:
            step()
        except GatewayError as error:
            self._refuse(error)

    def _errand(self, name: str, coro: Coroutine[Any, Any, None]) -> None:
        self._gateway.errands.start(name, coro, on_crash=self.crashed)

    def _refuse(self, error: GatewayError) -> None:
        """No answer but this."""
        if self._is_over:
            return
        self._leave()
        request = self._exchange.request
        self._count(error.code, status=error.status)
        answer = refusal(error, request)
        told = limit_fields(self._gateway, self._key, request, is_refusal=True)
        fields = encode_fields(answer.headers) + told
        self._exchange.respond_encoded(answer.status, fields, answer.body)

    def _count(self, outcome: str, *, status: int = 0) -> None:
        """The request has ended: the law's word for it, or the code of a refusal."""
        count_request(self._gateway.metrics, self._exchange.request.path, outcome)
        if self._spans is not None:
            self._spans.ended(outcome, status=status)

    def _leave(self) -> None:
        """The request is over; let go of everything that holds it."""
        self._is_over = True
        self._gateway.passages.pop(self, None)
        self._exchange.on_gone = self._exchange.on_writable = None
        if self._hedge is not None:
            self._hedge.cancel()
            self._hedge = None

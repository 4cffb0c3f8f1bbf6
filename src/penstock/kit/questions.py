"""Answering questions from a queue, several at a time, for as long as a context is open.

A handler that raises is a bug of the station: it closes the context with that error (the station's
supervisor logs, counts and restarts), and the asker is told nothing, so that its deadline decides.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from penstock.kit.ports import Answer

ANSWERS_MAX = 64
QUESTIONS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Question:
    data: bytes
    reply: Callable[[bytes], Awaitable[None]]


def question_queue() -> asyncio.Queue[Question]:
    """Who puts into a full queue drops the question: its asker would not have waited anyway."""
    return asyncio.Queue(maxsize=QUESTIONS_MAX)


@asynccontextmanager
async def answering(queue: asyncio.Queue[Question], handler: Answer) -> AsyncIterator[None]:
    """Serve `queue` with at most ANSWERS_MAX handlers at once until the context closes."""
    try:
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(_answer_all(queue, handler)) for _ in range(ANSWERS_MAX)]
            try:
                yield
            finally:
                for worker in workers:
                    worker.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) == 1:
            # The caller's own error, or the handler's, as it was raised.
            raise errors.exceptions[0] from None
        raise


async def _answer_all(queue: asyncio.Queue[Question], handler: Answer) -> None:
    while True:
        question = await queue.get()
        await question.reply(await handler(question.data))

"""penstock chat: talk to a model in the terminal, and see what each answer cost and who signed."""

import asyncio

import click

from penstock.cli.api import api_key, station_url
from penstock.cli.errors import Stop
from penstock.cli.home import Home
from penstock.cli.options import home_option
from penstock.cli.output import (
    console,
    error_console,
    json_option,
    plain,
    print_json,
    short,
    usd,
)
from penstock.cli.world import stopwatch
from penstock.client.client import AnswerStream, AsyncClient
from penstock.client.errors import ClientError

HISTORY_MAX = 64
DEFAULT_MODEL = "tiny-chat"


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("-m", "--message", help="Ask this one thing and end.")
@click.option("--gateway", "gateway_url", help="Another gateway (default: this home's).")
@click.option("--max-tokens", type=int, help="At most this many tokens an answer.")
@home_option
@json_option
def chat(
    home: Home,
    *,
    model: str,
    message: str | None,
    gateway_url: str | None,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Chat with MODEL (default: tiny-chat). End with Ctrl-D.

    Every answer's bytes are checked against the miner's and the gateway's signatures as they come.
    """
    url = gateway_url or station_url(home, "gateway")
    client = AsyncClient(url, api_key(home))
    options = {} if max_tokens is None else {"max_tokens": max_tokens}
    talk = Talk(client, model, options, quiet=as_json)
    try:
        asyncio.run(talk.once(message) if message is not None else talk.loop())
    except ClientError as error:
        raise Stop(
            f"{model} did not answer", why=str(error), then="penstock chutes shows what is served"
        ) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


class Talk:
    """One conversation."""

    def __init__(
        self, client: AsyncClient, model: str, options: dict[str, int], *, quiet: bool
    ) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._quiet = quiet
        self._messages: list[dict[str, str]] = []

    async def once(self, message: str) -> None:
        async with self._client:
            await self._ask(message)

    async def loop(self) -> None:
        """Ask and answer until the input ends."""
        out = error_console()
        out.print(f"{self._model}: ask something; Ctrl-D ends.", style="dim")
        async with self._client:
            while True:
                try:
                    message = await asyncio.to_thread(input, "> ")
                except EOFError:
                    return
                if message.strip():
                    await self._ask(message)

    async def _ask(self, message: str) -> None:
        self._messages.append({"role": "user", "content": message})
        del self._messages[:-HISTORY_MAX]
        began = stopwatch()
        streaming = self._client.stream_chat(self._model, self._messages, **self._options)
        async with streaming as stream:
            async for piece in stream:
                if not self._quiet:
                    click.echo(plain(piece), nl=False)
        self._messages.append({"role": "assistant", "content": stream.text})
        if self._quiet:
            print_json(facts(stream, stopwatch() - began))
            return
        click.echo()
        console().print(plain(summary(stream, stopwatch() - began)), style="dim", markup=False)


def facts(stream: AnswerStream, seconds: float) -> dict[str, object]:
    """What `--json` prints of one answer."""
    receipt, countersign = stream.signed.receipt, stream.signed.countersign
    completion = receipt.units.completion if receipt else 0
    return {
        "text": stream.text,
        "order_id": stream.order_id,
        "miner": receipt.miner if receipt else "",
        "prompt_units": receipt.units.prompt if receipt else 0,
        "completion_units": completion,
        "charge_nano": countersign.charge_nano if countersign else 0,
        "tokens_per_s": round(completion / seconds, 1) if seconds > 0 else 0,
        "signed": receipt is not None and stream.signed.is_signed,
    }


def summary(stream: AnswerStream, seconds: float) -> str:
    """One line under an answer."""
    told = facts(stream, seconds)
    if not told["signed"]:
        return f"not signed; order {stream.order_id}"
    return (
        f"{told['prompt_units']} in, {told['completion_units']} out, {told['tokens_per_s']} tokens/s, "
        f"{usd(int(str(told['charge_nano'])))}, {short(str(told['miner']))}, "
        f"receipt {stream.order_id} (miner and gateway signed)"
    )

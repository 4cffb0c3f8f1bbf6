"""penstock verify: check a receipt or recompute an epoch, trusting nobody.

Exit codes: 0 identical or valid, 1 a difference was found, 2 bad usage, 4 not published yet.
"""

import asyncio
import json
from typing import Any

import click
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from penstock.cli.errors import Stop
from penstock.cli.home import Home
from penstock.cli.options import home_option
from penstock.cli.output import (
    console,
    error_console,
    json_option,
    plain,
    print_json,
    usd,
)
from penstock.client.audit import Audit, Auditor
from penstock.client.errors import BadAnswer, Difference, NotPublished, Unreachable
from penstock.client.proof import LogName, Proof, check_document
from penstock.client.published import Source, read_operator
from penstock.client.sources import FolderSource, HttpSource
from penstock.kit.keys import verify as verify_signature
from penstock.kit.keys import verify_raw
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.spec.params import NETWORKS

EXIT_DIFFERENCE = 1
EXIT_NOT_PUBLISHED = 4
DOCUMENT_BYTES_MAX = 4 << 20


@click.group(invoke_without_command=True)
@click.option("--epoch", type=int, help="Recompute this epoch's counts, scores and payouts.")
@click.option("--operator", "operator_url", help="The operator's ledger URL (default: this home).")
@click.option("--log-key", default="", help="Refuse a log under another key than this identity.")
@home_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    *,
    home: Home,
    epoch: int | None,
    operator_url: str | None,
    log_key: str,
    as_json: bool,
) -> None:
    """Recompute what was published, from published files alone.

    \b
    penstock verify --epoch E            prints `identical`, or the first difference
    penstock verify receipt FILE         checks one receipt (- reads standard input)
    """  # noqa: D301  # click's mark is the character itself, not its spelling
    context.obj = (home, operator_url, log_key)
    if context.invoked_subcommand is not None:
        return
    if epoch is None:
        raise click.UsageError("say what to verify: --epoch E, or receipt FILE")
    found = asyncio.run(_with_source(home, operator_url, _audit(epoch, log_key, quiet=as_json)))
    if as_json:
        print_json({"verdict": "identical", **_audit_json(found)})
        return
    out = console()
    settled = found.settlement
    out.print("[green]identical[/green]")
    out.print(
        f"epoch {found.epoch}: window of {len(found.epochs)} epoch(s), {found.entries} entries,"
    )
    out.print(f"{found.records} records judged again, {found.reports} report(s) recomputed,")
    out.print(
        f"{len(settled.payouts)} payout(s) from a pool of {usd(settled.pool_nano)}, "
        f"{usd(settled.reserve_nano)} in reserve"
    )
    if found.decisions_broken:
        out.print(
            f"[yellow]{found.decisions_broken} request(s) were not routed by the policy that their "
            "gateway named[/yellow]; no score or payout hangs on that"
        )


@verify.command()
@click.argument("file", type=click.File("rb"))
@click.option("--home", "folder", help="As of verify itself; may stand here too.")
@click.option("--operator", "operator_url", help="As of verify itself; may stand here too.")
@click.option("--log-key", default="", help="As of verify itself; may stand here too.")
@json_option
@click.pass_obj
def receipt(
    reach: tuple[Home, str | None, str],
    *,
    file: Any,
    folder: str | None,
    operator_url: str | None,
    log_key: str,
    as_json: bool,
) -> None:
    """Check one receipt, as GET /v1/receipts/ID gave it: signatures, charge, place in the log."""
    home = reach[0] if folder is None else Home.at(folder)
    operator_url, log_key = operator_url or reach[1], log_key or reach[2]
    try:
        document = json.loads(file.read(DOCUMENT_BYTES_MAX))
    except (ValueError, RecursionError) as error:
        name = getattr(file, "name", "standard input")
        raise Stop(f"{name} is not JSON", why=str(error)) from error
    log, network = _log_of(home, operator_url, log_key)
    try:
        proof = check_document(
            document,
            params=NETWORKS[network],
            verify=verify_signature,
            verify_raw=verify_raw,
            log=log,
        )
    except BadAnswer as error:
        if as_json:
            print_json({"verdict": "invalid", "reason": error.reason})
        else:
            error_console().print(f"[red]invalid[/red]: {escape(plain(error.reason))}")
        raise SystemExit(EXIT_DIFFERENCE) from error
    if as_json:
        print_json({"verdict": "valid", **_proof_json(proof, log)})
    else:
        _print_proof(proof, log)


def _audit(epoch: int, log_key: str, *, quiet: bool) -> Any:
    async def run(source: Source) -> Audit:
        auditor = Auditor(source, verify_signature, verify_raw, log_key)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=error_console(), transient=True, disable=quiet) as bar:
            task = bar.add_task(f"epoch {epoch}")

            def told(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            return await auditor.audit(epoch, progress=told)

    return run


async def _with_source(home: Home, operator_url: str | None, run: Any) -> Any:
    """Run with the right source; every refusal becomes words and an exit code."""
    client = HttpClient(Sockets())
    source: Source = FolderSource(home.public)
    if operator_url is not None:
        source = HttpSource(client, operator_url)
    try:
        return await run(source)
    except Difference as error:
        click.echo(
            plain(
                f"DIFFERENT at {error.where}\n  published:  {error.published}\n"
                f"  recomputed: {error.recomputed}"
            ),
            err=True,
        )
        raise SystemExit(EXIT_DIFFERENCE) from error
    except NotPublished as error:
        raise Stop(
            str(error),
            why="the epoch is not closed and settled yet, or older than this operator's log",
            then="penstock scores tells the newest settled epoch",
            exit_code=EXIT_NOT_PUBLISHED,
        ) from error
    except Unreachable as error:
        raise Stop(str(error), exit_code=EXIT_NOT_PUBLISHED) from error
    finally:
        await client.close()


def _log_of(home: Home, operator_url: str | None, log_key: str) -> tuple[LogName | None, str]:
    """The log that the receipt must be in; None when neither home nor URL nor key names one."""
    if operator_url is None and not (home.public / "operator.json").exists():
        return None, "local"
    operator = asyncio.run(_with_source(home, operator_url, read_operator))
    if operator.network not in NETWORKS:
        raise Stop(f"the operator's network {operator.network!r} is unknown here")
    if log_key and operator.log_key != log_key:
        raise Stop("the operator's log has another key", why=operator.log_key)
    return LogName(operator.origin, operator.log_key), operator.network


def _audit_json(found: Audit) -> dict[str, Any]:
    settled = found.settlement
    return {
        "epoch": found.epoch,
        "epochs": list(found.epochs),
        "entries": found.entries,
        "records": found.records,
        "reports": found.reports,
        "decisions_broken": found.decisions_broken,
        "evidence_digest": found.evidence_digest,
        "weights": {one.miner: one.ppm for one in settled.weights},
        "payouts": {one.identity: one.amount_nano for one in settled.payouts},
        "pool_nano": settled.pool_nano,
        "reserve_nano": settled.reserve_nano,
    }


def _proof_json(proof: Proof, log: LogName | None) -> dict[str, Any]:
    judged = proof.judgement
    return {
        "order_id": judged.order.order_id,
        "outcome": judged.outcome.value,
        "miner": judged.order.miner,
        "gateway": judged.order.gateway,
        "prompt": judged.units.prompt,
        "completion": judged.units.completion,
        "charge_nano": judged.charge_nano,
        "charge_max": judged.order.charge_max,
        "signed_by": list(proof.signed_by),
        "logged": proof.seq >= 0,
        "seq": proof.seq,
        "log_size": proof.size,
        "log_checked": log is not None,
    }


def _print_proof(proof: Proof, log: LogName | None) -> None:
    out, judged = console(), proof.judgement
    out.print("[green]valid[/green]")
    out.print(f"order     {judged.order.order_id}: {judged.outcome.value}")
    out.print(f"units     {judged.units.prompt} in, {judged.units.completion} out")
    out.print(f"charge    {usd(judged.charge_nano)} (ceiling {usd(judged.order.charge_max)})")
    for line in proof.signed_by:
        out.print(f"signed    {line}")
    if proof.seq < 0:
        out.print("log       not logged yet: fetch the receipt again in a few seconds")
    elif log is None:
        out.print(
            f"log       entry {proof.seq} of {proof.size}; log key unknown: use --operator URL"
        )
    else:
        out.print(f"log       entry {proof.seq} of {proof.size} in {log.origin}, checkpoint signed")

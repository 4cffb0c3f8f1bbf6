"""One drill: clients ask, something breaks, and afterwards every request is accounted for."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
from tests.e2e.books import Snapshot, check_books, check_log, check_told, checkpoint_of, snapshot
from tests.e2e.load import Load, Told
from tests.e2e.market import RunningMarket

from penstock.spec.notes import Checkpoint

SERVED_DEADLINE_S = 10
"""The requirement: where another instance can serve, requests are answered again within this."""
REST_DEADLINE_S = 90
UNPROVEN_S = 0.5
"""A gateway seals an order 50 ms after it was sent; on a busy machine the miner has it later."""
BLOCK_BYTES = 4_096
ENGINE = "penstock.adapters.engines.llamacpp_worker"


@dataclass
class Drill:
    """A market under drill. `signed` are all checkpoints it has signed in front of us."""

    market: RunningMarket
    has_small_disk: bool = False
    epochs: set[int] = field(default_factory=set)
    """Those in which something was broken."""
    signed: list[Checkpoint] = field(default_factory=list)

    def run(self, station: str, kill: Callable[[], None], *, wait_back: Callable[[], bool]) -> None:
        """Break something in mid-stream, wait for its return, and check every account."""
        market = self.market
        before = self.at_rest([])
        with Load(market.gateway, market.api_key) as load:
            market.until(
                lambda: load.answered() >= 4 and load.streaming >= 2, "the load is in full swing"
            )
            self.epochs.add(market.ledger("/v1/epochs")["epoch"])
            kill()
            killed_s, after_kill = time.monotonic(), len(load.told)
            market.until(
                lambda: load.answered(after_kill),
                f"a request made after the end of {station} is answered",
                deadline_s=SERVED_DEADLINE_S,
            )
            print(f"{station}: answered {time.monotonic() - killed_s:.2f} s after its end")
            market.until(wait_back, f"{station} is back")
            print(f"{station}: back {time.monotonic() - killed_s:.2f} s after its end")
            after_return = len(load.told)
            market.until(lambda: load.answered(after_return) >= 8, "all goes on as before")
        told = [*load.told, self.sign()]
        if station == "gateway":
            told = [one for one in told if not is_unproven(one, killed_s)]
        after = self.at_rest(told)
        print(f"{station}: at rest {time.monotonic() - killed_s:.2f} s after its end")
        check_told(before, after, told, gateway_died=station == "gateway")
        self.check(after)
        print(f"{station}: {summary(told)}; disputes {after.disputes - before.disputes}")

    def check(self, now: Snapshot) -> None:
        """Books and log hold, and the log has kept all that it ever signed before us."""
        check_books(now)
        check_log(now, self.signed)

    def serving(self) -> int:
        """How many instances of the chat chute the market knows."""
        listed = self.market.status()["chutes"]
        return sum(one["serving"] for one in listed if one["name"] == "tiny-chat")

    def sign(self) -> Told:
        """Ask for one answer and keep the checkpoint under which its record is proven."""
        answer: httpx.Response = self.market.until(
            lambda: (reply := self.market.chat("Hello!")).status_code == 200 and reply,
            "one request is answered",
        )
        order_id = answer.headers["x-penstock-order"]
        document = self.market.logged(order_id)
        self.signed.append(checkpoint_of(self.market, document["checkpoint"]))
        charge_nano = int(answer.headers["x-penstock-charge"])
        return Told(
            worker=-1, is_streamed=False, order_id=order_id, charge_nano=charge_nano, is_over=True
        )

    def at_rest(self, told: list[Told]) -> Snapshot:
        """The books once every order the clients saw is logged and nothing is held any more."""
        seen = {one.order_id for one in told if one.order_id}

        def rested() -> Snapshot | None:
            now = snapshot(self.market)
            return now if now.held_nano == 0 and seen <= set(now.outcomes) else None

        found = self.market.until(rested, "nothing is held, all is logged", REST_DEADLINE_S)
        assert isinstance(found, Snapshot)
        return found


def is_unproven(told: Told, killed_s: float) -> bool:
    """Was this order perhaps so young when its gateway died that its miner had no seal of it yet? Then
    nobody can prove it, nobody is paid for it, and it is not in the log.
    """
    is_young = killed_s - UNPROVEN_S <= told.seen_s <= killed_s + UNPROVEN_S
    return is_young and not told.is_paid_for


def overrides(home: Path, station: str, values: dict[str, object]) -> None:
    """Put values into a station's configuration that `up` would not choose."""
    folder = home / "overrides"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{station}.json").write_text(json.dumps(values))


def fill(file: Path) -> None:
    """Take all the space that is left, to the last byte."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as ballast:
        while ballast.write(b"\0" * BLOCK_BYTES):
            pass


def summary(told: list[Told]) -> str:
    """What the clients met, for the one who reads the test's output."""
    errors: dict[str, int] = {}
    for one in told:
        errors[one.error[:60] or "answered"] = errors.get(one.error[:60] or "answered", 0) + 1
    return json.dumps(errors)


def engine_of(miner_home: Path) -> int:
    """The process number of a miner's chat engine; 0 while it has none. It is no child of the agent,
    which it outlives: its task's mark stands in its environment.
    """
    marks = [
        json.loads(file.read_bytes())["marker"].encode()
        for file in miner_home.glob("runtime/tasks/*/task.json")
    ]
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue  # it ended while we looked
        if ENGINE in command and any(mark in environment for mark in marks):
            found = max(found, int(folder.name))
    return found

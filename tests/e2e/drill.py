"""One drill: clients ask, something breaks, and afterwards every request is accounted for."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.books import Snapshot, check_books, check_log, check_told, checkpoint_of, snapshot
from tests.e2e.load import Load, Told
from tests.e2e.market import RunningMarket

from penstock.spec.notes import Checkpoint

SERVED_DEADLINE_S = 10
"""The requirement: where another instance can serve, requests are answered again within this."""
REST_DEADLINE_S = 90
ENGINE = "penstock.adapters.engines.llamacpp_worker"


@dataclass
class Drill:
    """A market under drill. `signed` are all checkpoints it has signed in front of us."""

    market: RunningMarket
    signed: list[Checkpoint] = field(default_factory=list)

    def run(
        self, station: str, kill: Callable[[], None], *, wait_back: Callable[[], bool]
    ) -> tuple[Load, Snapshot]:
        """Break something in mid-stream, wait for its return, and check every account."""
        market = self.market
        self.sign()
        before = self.at_rest([])
        with Load(market.gateway, market.api_key) as load:
            market.until(
                lambda: load.answered() >= 4 and load.streaming >= 2, "the load is in full swing"
            )
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
        after = self.at_rest(load.told)
        check_told(before, after, load.told, gateway_died=station == "gateway")
        check_books(after)
        self.sign()
        check_log(snapshot(market), self.signed)
        print(f"{station}: {summary(load.told)}; disputes {after.disputes - before.disputes}")
        return load, after

    def sign(self) -> None:
        """Ask for one answer and keep the checkpoint under which its record is proven."""
        answer = self.market.until(
            lambda: (reply := self.market.chat("Hello!")).status_code == 200 and reply,
            "one request is answered",
        )
        document = self.market.logged(answer.headers["x-penstock-order"])
        self.signed.append(checkpoint_of(self.market, document["checkpoint"]))

    def at_rest(self, told: list[Told]) -> Snapshot:
        """The books once every order the clients saw is logged and nothing is held any more."""
        seen = {one.order_id for one in told if one.order_id}

        def rested() -> Snapshot | None:
            now = snapshot(self.market)
            return now if now.held_nano == 0 and seen <= set(now.outcomes) else None

        found = self.market.until(rested, "nothing is held, all is logged", REST_DEADLINE_S)
        assert isinstance(found, Snapshot)
        return found


def summary(told: list[Told]) -> str:
    """What the clients met, for the one who reads the test's output."""
    errors: dict[str, int] = {}
    for one in told:
        errors[one.error[:60] or "answered"] = errors.get(one.error[:60] or "answered", 0) + 1
    return json.dumps(errors)


def engine_of(miner_pid: int) -> int:
    """The process number of a miner's engine, its child; 0 while it has none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
        if parent == miner_pid and ENGINE in command:
            return int(folder.name)
    return 0

"""What a validator must not forget: the reports it has signed, and lies that wait for their record.

One JSON file through the Files port, replaced whole, before anything it remembers leaves the house.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.kit.ports import Files
from penstock.spec.canon import to_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, parse_signed
from penstock.validator.errors import NotebookTorn

NOTEBOOK_FILE = "notebook.json"
REPORTS_MAX = 64

PENDING, ACCEPTED, REFUSED, LATE = "pending", "accepted", "refused", "late"


class Exhibit(msgspec.Struct, frozen=True):
    """A lie and its transcript (base64): what a verdict is made of."""

    order_id: str
    miner: str
    epoch: int
    transcript: str


class KeptReport(msgspec.Struct, frozen=True):
    """The one report on an epoch, and what became of it."""

    epoch: int
    signed: dict[str, Any]
    state: str = PENDING

    def opened(self) -> Signed:
        """Raises NotebookTorn."""
        try:
            return parse_signed(self.signed)
        except SpecError as error:
            raise NotebookTorn(NOTEBOOK_FILE, str(error)) from error


class _Page(msgspec.Struct):
    """The file. `forgotten_epoch` is the newest epoch whose report is no longer held here."""

    forgotten_epoch: int = -1
    reports: list[KeptReport] = []
    exhibits: list[Exhibit] = []


@dataclass(slots=True)
class Notebook:
    """Loads itself. Writing raises DiskFull; then what was there still stands."""

    files: Files
    exhibits_max: int
    _page: _Page = field(init=False)

    def __post_init__(self) -> None:
        """Raises NotebookTorn."""
        try:
            data = self.files.read(NOTEBOOK_FILE)
        except FileNotFoundError:
            self._page = _Page()
            return
        try:
            self._page = msgspec.json.decode(data, type=_Page)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotebookTorn(NOTEBOOK_FILE, str(error)) from error

    @property
    def reports(self) -> tuple[KeptReport, ...]:
        return tuple(self._page.reports)

    @property
    def exhibits(self) -> tuple[Exhibit, ...]:
        return tuple(self._page.exhibits)

    def report(self, epoch: int) -> KeptReport | None:
        """The report on this epoch, if one was signed."""
        return next((one for one in self._page.reports if one.epoch == epoch), None)

    def may_report(self, epoch: int) -> bool:
        """Whether no report on this epoch can have been signed before."""
        return self.report(epoch) is None and epoch > self._page.forgotten_epoch

    def keep_report(self, epoch: int, signed: Signed) -> KeptReport:
        """Remember it before it is sent. Raises DiskFull."""
        assert self.may_report(epoch), "a validator reports once on an epoch"
        kept = KeptReport(epoch, to_plain(signed))
        reports = sorted([*self._page.reports, kept], key=lambda one: one.epoch)
        dropped = reports[:-REPORTS_MAX]
        forgotten = max((one.epoch for one in dropped), default=self._page.forgotten_epoch)
        self._turn(_Page(forgotten, reports[-REPORTS_MAX:], self._page.exhibits))
        return kept

    def mark_report(self, epoch: int, state: str) -> None:
        """What became of it. Raises DiskFull."""
        reports = [
            KeptReport(one.epoch, one.signed, state) if one.epoch == epoch else one
            for one in self._page.reports
        ]
        self._turn(_Page(self._page.forgotten_epoch, reports, self._page.exhibits))

    def keep_exhibit(self, exhibit: Exhibit) -> bool:
        """False when there is no room. Raises DiskFull."""
        if len(self._page.exhibits) >= self.exhibits_max:
            return False
        exhibits = [*self._page.exhibits, exhibit]
        self._turn(_Page(self._page.forgotten_epoch, self._page.reports, exhibits))
        return True

    def drop_exhibit(self, order_id: str) -> None:
        """Raises DiskFull."""
        exhibits = [one for one in self._page.exhibits if one.order_id != order_id]
        self._turn(_Page(self._page.forgotten_epoch, self._page.reports, exhibits))

    def _turn(self, page: _Page) -> None:
        self.files.write(NOTEBOOK_FILE, msgspec.json.encode(page))
        self._page = page

"""The notebook: what was promised is remembered, on a real disk and on the simulator's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.adapters.files import FolderFiles
from penstock.kit.ports import DiskFull, Files
from penstock.sim.disk import MemoryFiles
from penstock.spec.keys import Signed
from penstock.validator.errors import NotebookTorn
from penstock.validator.store import (
    ACCEPTED,
    NOTEBOOK_FILE,
    PENDING,
    REPORTS_MAX,
    Exhibit,
    Notebook,
)

MakeFiles = Callable[[Path], Files]
MAKERS: list[MakeFiles] = [FolderFiles, lambda _: MemoryFiles(bytes_max=1 << 20)]
EXHIBIT = Exhibit("o-1", "miner", 5, "dGV4dA==")


def signed(epoch: int) -> Signed:
    return Signed("report", {"epoch": epoch}, "me", "00")


@pytest.mark.parametrize("make", MAKERS)
def test_reports_and_exhibits_survive_a_restart(make: MakeFiles, tmp_path: Path) -> None:
    files = make(tmp_path)
    notebook = Notebook(files, exhibits_max=4)
    assert (notebook.reports, notebook.exhibits) == ((), ())
    notebook.keep_report(7, signed(7))
    notebook.keep_report(6, signed(6))
    notebook.mark_report(7, ACCEPTED)
    assert notebook.keep_exhibit(EXHIBIT)
    again = Notebook(files, exhibits_max=4)
    assert [(kept.epoch, kept.state) for kept in again.reports] == [(6, PENDING), (7, ACCEPTED)]
    kept = again.report(7)
    assert kept is not None
    assert kept.opened() == signed(7)
    assert again.exhibits == (EXHIBIT,)
    again.drop_exhibit("o-1")
    assert Notebook(files, exhibits_max=4).exhibits == ()


def test_what_was_reported_stays_reported_after_it_is_forgotten() -> None:
    files = MemoryFiles(bytes_max=1 << 20)
    notebook = Notebook(files, exhibits_max=4)
    for epoch in range(REPORTS_MAX + 3):
        notebook.keep_report(epoch, signed(epoch))
    for restarted in (notebook, Notebook(files, exhibits_max=4)):
        assert len(restarted.reports) == REPORTS_MAX
        assert restarted.report(2) is None
        assert not restarted.may_report(2)
        assert not restarted.may_report(REPORTS_MAX)
        assert restarted.may_report(REPORTS_MAX + 3)


def test_exhibits_are_bounded() -> None:
    notebook = Notebook(MemoryFiles(bytes_max=1 << 20), exhibits_max=1)
    assert notebook.keep_exhibit(EXHIBIT)
    assert not notebook.keep_exhibit(Exhibit("o-2", "miner", 5, ""))
    assert notebook.exhibits == (EXHIBIT,)


def test_what_the_disk_refused_was_not_promised() -> None:
    notebook = Notebook(MemoryFiles(bytes_max=8), exhibits_max=4)
    with pytest.raises(DiskFull):
        notebook.keep_report(1, signed(1))
    with pytest.raises(DiskFull):
        notebook.keep_exhibit(EXHIBIT)
    assert notebook.may_report(1)
    assert notebook.exhibits == ()


def test_a_second_report_on_an_epoch_is_a_bug() -> None:
    notebook = Notebook(MemoryFiles(bytes_max=1 << 20), exhibits_max=4)
    notebook.keep_report(1, signed(1))
    with pytest.raises(AssertionError):
        notebook.keep_report(1, signed(1))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"reports": 1}', b"\xff"])
def test_a_notebook_that_cannot_be_read_is_told_by_name(data: bytes) -> None:
    files = MemoryFiles(bytes_max=1 << 20)
    files.write(NOTEBOOK_FILE, data)
    with pytest.raises(NotebookTorn) as caught:
        Notebook(files, exhibits_max=4)
    assert NOTEBOOK_FILE in str(caught.value)


def test_a_kept_report_that_is_no_signed_message_is_torn_too() -> None:
    files = MemoryFiles(bytes_max=1 << 20)
    files.write(NOTEBOOK_FILE, b'{"reports":[{"epoch":1,"signed":{"kind":"report"}}]}')
    kept = Notebook(files, exhibits_max=4).report(1)
    assert kept is not None
    with pytest.raises(NotebookTorn):
        kept.opened()

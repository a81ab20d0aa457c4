# SPDX-License-Identifier: Apache-2.0
"""The budget in a guard's process: spent before release, still spent after a restart, by run and in all."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from homebound import control
from homebound.books import epsilon, ledger
from homebound.errors import ViolationPresent
from homebound.guard.books import Books
from homebound.settings import GuardSettings
from unit.guard.rig import HONEST, MODEL, Rig, entries, metrics, read, rig, write

# Three releases of a run fit (epsilon 8.4), a fourth would be 10.0; four in all fit, a fifth would be 11.3.
LIMITED: dict[str, Any] = {"noise_multiplier": 1.0, "run_epsilon_limit": 8.5, "epsilon_limit": 10.5}
FITS = 3


def spend(guard: Rig, task: str, run: str = "r1") -> None:
    """One round whose update is released; the supervisor hears where the books stand."""
    link = guard.trainers[-1] if guard.trainers else guard.trainer()
    guard.send_task(MODEL, task, run=run)
    guard.hear("started")
    assert read(link).header["task"] == task
    write(link, "update", {"task": task}, HONEST)
    assert read(guard.gateway).kind == "release"
    guard.hear("released")
    guard.hear("ledger")


def is_refused(guard: Rig, task: str, run: str = "r1") -> None:
    """The app does not even hear of it."""
    guard.send_task(MODEL, task, run=run)
    guard.refusal("budget", task)
    guard.hear("ledger")


def test_over_the_limit_nothing_trains(tmp_path: Path) -> None:
    with rig(tmp_path, **LIMITED) as guard:
        assert (guard.standing["epsilon"], guard.standing["exhausted"]) == (0.0, False)
        for number in range(FITS):
            spend(guard, f"t{number}")
        assert guard.standing["epsilon"] == pytest.approx(epsilon.epsilon(FITS, 1e-5))
        assert guard.standing["exhausted"] is True
        is_refused(guard, "t9")
        spend(guard, "t10", run="r2")  # another run, and the whole has room for it
        is_refused(guard, "t11", run="r3")
    whole = entries(tmp_path)
    assert [entry.kind for entry in whole] == ["release"] * FITS + ["refusal", "release", "refusal"]


def test_metrics_alone_cost_no_epsilon(tmp_path: Path) -> None:
    with rig(tmp_path, **LIMITED) as guard:
        for number in range(FITS):
            spend(guard, f"t{number}")
        guard.send_task(MODEL, "t9", "evaluate")
        guard.hear("started")
        read(guard.trainers[0])
        write(guard.trainers[0], "update", {"task": "t9"}, metrics(accuracy=0.5))
        assert read(guard.gateway).kind == "release"
        guard.hear("released")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_gives_nothing_back(tmp_path: Path, end: str) -> None:
    for number in range(FITS):
        with rig(tmp_path, **LIMITED) as guard:
            spend(guard, f"t{number}")
            if end == "kill":
                guard.process.send_signal(signal.SIGKILL)
            else:
                guard.tell({"type": "stop"})
            guard.process.wait()
    with rig(tmp_path, **LIMITED) as guard:
        assert guard.standing["exhausted"] is False  # no run has begun
        is_refused(guard, "t9")


def test_spent_once_the_entry_is_there_whether_it_left_or_not(tmp_path: Path) -> None:
    """Killed between the entry and the gateway's end of the link."""
    with rig(tmp_path, **LIMITED) as guard:
        link = guard.begin(MODEL)
        guard.gateway.setsockopt(1, 8, 1)  # SO_RCVBUF: it reads nothing
        write(link, "update", {"task": "t1"}, HONEST)
        guard.hear("released")
        guard.process.kill()
        guard.process.wait()
    with rig(tmp_path, **LIMITED) as guard:
        assert guard.standing["epsilon"] == pytest.approx(epsilon.epsilon(1.0, 1e-5))


def test_clocks_play_no_part(tmp_path: Path) -> None:
    """The same sums with a clock of 1970 and one of 2200."""
    script = """
import sys
from pathlib import Path
from homebound.books import ledger
from homebound.guard.books import Books
from homebound.guard.release import Payload, Release, Task
from homebound.settings import GuardSettings
moment = float(sys.argv[2])
writer = ledger.open_writer(Path(sys.argv[1]), lambda: moment)
settings = GuardSettings(noise_multiplier=1.0, run_epsilon_limit=8.5, epsilon_limit=10.5)
books = Books(writer, settings, lambda: moment)
task = Task("t", "r1", 1, "train", ())
print(books.affords(task))
books.release(task, Release((), 1.0, False), Payload([], b"", "00", 0))
"""
    said = []
    for moment in ("7258118400", "0", "1700000000", "0"):
        words = [sys.executable, "-c", script, str(tmp_path / ledger.FILE), moment]
        said.append(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())
    assert said == ["True", "True", "True", "False"]


def test_an_old_copy_of_the_folder_is_refused(tmp_path: Path) -> None:
    """With the anchor that the supervisor kept; without one the old copy would be taken."""
    state, copy = tmp_path / "state", tmp_path / "copy"
    state.mkdir()
    with rig(state, **LIMITED) as guard:
        spend(guard, "t0")
        guard.tell({"type": "stop"})
        guard.process.wait()
        shutil.copytree(state, copy)
    with rig(state, **LIMITED) as guard:
        spend(guard, "t1")
        anchor = {"number": guard.standing["entries"], "hash": guard.standing["hash"]}
    with rig(copy, **LIMITED):
        pass
    with pytest.raises(control.ControlClosed), rig(copy, anchor=anchor, **LIMITED):
        pass
    with rig(state, anchor=anchor, **LIMITED) as guard:
        spend(guard, "t2")


def test_two_guards_of_one_device_do_not_spend_side_by_side(tmp_path: Path) -> None:
    """The second does not begin; the first goes on; when it is gone another goes on with its sums."""
    with rig(tmp_path, **LIMITED) as first:
        spend(first, "t0")
        with pytest.raises(control.ControlClosed), rig(tmp_path, **LIMITED):
            pass
        spend(first, "t1")
    with rig(tmp_path, **LIMITED) as guard:
        spend(guard, "t2")
        is_refused(guard, "t3")


def test_a_changed_entry_ends_the_guard(tmp_path: Path) -> None:
    """Found at the start, wherever in the chain it is."""
    with rig(tmp_path, **LIMITED) as guard:
        for number in range(FITS):
            spend(guard, f"t{number}")
    connection = sqlite3.connect(tmp_path / ledger.FILE)
    connection.executescript("DROP TRIGGER entries_stay; UPDATE entries SET details = '{}' WHERE number = 2;")
    connection.close()
    with pytest.raises(control.ControlClosed), rig(tmp_path, **LIMITED):
        pass


def test_a_change_while_it_runs_is_found_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / ledger.FILE
    writer = ledger.open_writer(path, lambda: 0.0)
    for number in range(23):
        writer.append("refusal", f"t{number}", 1)
    moments = iter([100.0, 200.0])
    books = Books(writer, GuardSettings(), lambda: next(moments))
    assert books.report()["verified"] == 100.0
    books.verify()
    assert books.report()["verified"] == 200.0
    connection = sqlite3.connect(path)
    connection.executescript("DROP TRIGGER entries_stay; UPDATE entries SET round = 2 WHERE number = 7;")
    connection.close()
    with pytest.raises(ViolationPresent, match="entry 7 was changed"):
        books.verify()
    writer.close()


def test_the_guard_stays_small(tmp_path: Path) -> None:
    """With numpy, SQLite and the signing library in it, after a round. Prints the figure."""
    with rig(tmp_path, **LIMITED) as guard:
        spend(guard, "t0")
        pages = int(Path(f"/proc/{guard.process.pid}/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE")
        print(f"guard: {resident / 1e6:.1f} MB resident")
        mapped = Path(f"/proc/{guard.process.pid}/maps").read_text()
    assert resident < 60e6
    assert "cryptography" in mapped
    assert not [name for name in ("scipy/", "dp_accounting", "torch", "_ssl") if name in mapped]

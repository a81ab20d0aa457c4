# SPDX-License-Identifier: Apache-2.0
"""The ledger's head kept elsewhere: old copies, lost ledgers and other keys are found at the next start."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from homebound.books import anchor, ledger
from homebound.books.anchor import Anchor, Kept
from homebound.books.chain import Head
from homebound.errors import ConfigError, HomeboundError, ViolationPresent
from homebound.supervisor import status
from unit.books.rig import COUNT, fill, read, writer_at


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A closed ledger of COUNT entries, in a folder of its own."""
    folder = tmp_path / "guard"
    folder.mkdir()
    with closing(writer_at(folder / ledger.FILE)) as writer:
        fill(writer)
    return folder / ledger.FILE


def told(file: Path, **changes: Any) -> dict[str, Any]:
    """What the guard would report of that ledger."""
    with closing(ledger.open_reader(file)) as reader:
        head, key = reader.head(), reader.public_key()
    return {"type": "ledger", "entries": head.number, "hash": head.hash, "key": key, **changes}


@pytest.fixture
def kept(file: Path, tmp_path: Path) -> Kept:
    """The supervisor's side of it."""
    found = Kept(tmp_path / anchor.FILE)
    found.take(told(file))
    return found


def test_what_was_told_outlives_a_restart(file: Path, kept: Kept, tmp_path: Path) -> None:
    assert kept.anchor.head == Head(COUNT, read(file)[-1].hash)
    assert Kept(tmp_path / anchor.FILE).anchor == kept.anchor
    assert (tmp_path / anchor.FILE).stat().st_mode & 0o777 == 0o600
    assert kept.trouble == ""
    kept.check(file)


def test_an_older_copy_is_refused(file: Path, kept: Kept, tmp_path: Path) -> None:
    """The whole folder of the guard, with its key, is put back as it was some releases ago."""
    old = shutil.copytree(file.parent, tmp_path / "old")
    with closing(writer_at(file)) as writer:
        writer.append("release", "t", 1)
    kept.take(told(file))
    kept.check(file)
    shutil.rmtree(file.parent)
    shutil.copytree(old, file.parent)
    with pytest.raises(ViolationPresent, match=f"ends at {COUNT}, before entry {COUNT + 1} as it was known"):
        kept.check(file)
    with pytest.raises(ViolationPresent, match="as it was known"):
        next(iter(status.released_before(file, kept)))
    with pytest.raises(ViolationPresent, match="as it was known"):
        ledger.open_writer(file, lambda: 0.0, anchor=kept.anchor.head)
    # The control: with the head of that older time it is good.
    ledger.open_writer(file, lambda: 0.0, anchor=Head(COUNT, read(file)[-1].hash)).close()


def test_another_history_of_the_same_length_is_refused(file: Path, kept: Kept, tmp_path: Path) -> None:
    """Written anew with the same key."""
    key = file.with_name(ledger.KEY_FILE)
    (tmp_path / "new").mkdir()
    shutil.copy(key, tmp_path / "new")
    with closing(writer_at(tmp_path / "new" / ledger.FILE)) as writer:
        for _ in range(COUNT + 5):
            writer.append("release", "other", 1)
    with pytest.raises(ViolationPresent, match=f"no longer has entry {COUNT} as it was known"):
        kept.check(tmp_path / "new" / ledger.FILE)


def test_a_lost_ledger_is_no_refund(file: Path, kept: Kept) -> None:
    file.unlink()
    with pytest.raises(ViolationPresent, match=f"is gone; it had {COUNT} entries"):
        kept.check(file)
    with pytest.raises(ViolationPresent, match=f"ends at 0, before entry {COUNT}"):
        ledger.open_writer(file, lambda: 0.0, anchor=kept.anchor.head)


def test_another_key_is_refused(file: Path, kept: Kept) -> None:
    kept.anchor = Anchor(0, Head().hash, "ab" * 32)
    with pytest.raises(ViolationPresent, match="another key"):
        kept.check(file)


def test_nothing_known_and_nothing_there_is_a_first_start(tmp_path: Path) -> None:
    found = Kept(tmp_path / anchor.FILE)
    found.check(tmp_path / "none")
    assert found.anchor.head == Head()
    assert list(status.released_before(tmp_path / "none", found)) == []


def test_a_report_cannot_go_back(file: Path, kept: Kept) -> None:
    before = kept.anchor
    for changes in (
        {"entries": COUNT - 1}, {"entries": -1}, {"entries": True}, {"entries": None}, {"hash": "x"},
        {"hash": None}, {"key": 7}, {"type": "released", "entries": COUNT + 1},
    ):  # fmt: skip
        kept.take(told(file, **changes))
        assert kept.anchor == before
    kept.take(told(file, entries=COUNT + 1))
    assert kept.anchor.number == COUNT + 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"number": -1}', '{"number": 1, "hash": "", "key": ""}'])
def test_a_damaged_anchor_is_no_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / anchor.FILE).write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        Kept(tmp_path / anchor.FILE)


def test_a_disk_that_takes_nothing_is_told_and_tried_again(file: Path, kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / anchor.FILE
    (tmp_path / f"{anchor.FILE}.new").mkdir()
    (tmp_path / f"{anchor.FILE}.new" / "in the way").touch()
    kept.take(told(file, entries=COUNT + 1))
    assert "cannot be kept" in kept.trouble
    assert json.loads(path.read_text())["number"] == COUNT
    shutil.rmtree(tmp_path / f"{anchor.FILE}.new")
    kept.take(told(file, entries=COUNT + 1))
    assert kept.trouble == ""
    assert json.loads(path.read_text())["number"] == COUNT + 1


def test_a_ledger_that_is_damaged_stops_the_check(file: Path, kept: Kept) -> None:
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(HomeboundError):
        kept.check(file)

# SPDX-License-Identifier: Apache-2.0
"""The ledger: what is written comes back, one writer has it, and every change in it shows."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from homebound.books import chain, ledger
from homebound.books.chain import COLUMNS, START, Fault, Head
from homebound.errors import ConfigError, HomeboundError, ViolationPresent
from unit.books.rig import COUNT, faults, fill, read, writer_at

EXAMPLES = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger of COUNT entries that nobody changes."""
    found = tmp_path_factory.mktemp("original") / ledger.FILE
    writer = writer_at(found)
    fill(writer)
    writer.close()
    return found


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy of it, with its key, that a test may change."""
    shutil.copy(original.with_name(ledger.KEY_FILE), tmp_path)
    return Path(shutil.copy(original, tmp_path / ledger.FILE))


def test_entries_come_back_as_they_were_written(tmp_path: Path) -> None:
    writer = writer_at(tmp_path / "l")
    written = fill(writer)
    assert [entry.number for entry in written] == list(range(1, COUNT + 1))
    assert written[0].previous == START
    assert all(later.previous == earlier.hash for earlier, later in itertools.pairwise(written))
    assert list(writer.reader.entries()) == written
    assert writer.reader.head() == Head(COUNT, written[-1].hash)
    assert read(tmp_path / "l") == written  # beside the open writer
    assert faults(tmp_path / "l") == ()
    writer.close()
    assert read(tmp_path / "l") == written
    again = writer_at(tmp_path / "l")
    assert again.append("refusal", "t", 1).previous == written[-1].hash
    again.close()
    assert faults(tmp_path / "l") == ()


def test_an_empty_ledger(tmp_path: Path) -> None:
    writer_at(tmp_path / "l").close()
    assert read(tmp_path / "l") == []
    assert faults(tmp_path / "l", Head(0, START)) == ()


def test_only_the_owner_may_read(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    writer = writer_at(path)
    writer.append("refusal", "t", 1)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    writer.close()


def test_a_second_writer_is_refused(path: Path) -> None:
    first = writer_at(path)
    with pytest.raises(HomeboundError, match="another process writes the ledger"):
        writer_at(path)
    first.close()
    writer_at(path).close()


def test_sqlite_itself_refuses_a_change(path: Path) -> None:
    """A mistake of ours does not get through; whoever drops the triggers is found by verify()."""
    connection = sqlite3.connect(path)
    for statement in ("UPDATE entries SET norm = 0", "DELETE FROM entries WHERE number = 3"):
        with pytest.raises(sqlite3.IntegrityError, match="entries are never"):
            connection.execute(statement)
    connection.close()
    assert faults(path) == ()


def tamper(path: Path, *statements: tuple[str, tuple[Any, ...]]) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript("DROP TRIGGER IF EXISTS entries_stay; DROP TRIGGER IF EXISTS entries_last;")
    for statement, values in statements:
        connection.execute(statement, values)
    connection.commit()
    connection.close()


def flipped(value: Any, position: int, bit: int) -> Any:
    """``value`` with one bit of its stored form changed; a text may stop being UTF-8."""
    if isinstance(value, str):
        data = bytearray(value.encode())
        data[position % len(data)] ^= 1 << bit
        return bytes(data)
    if isinstance(value, float):
        return value + (2.0**-20 if position % 2 else 1.0) * (1 if bit % 2 else -1)
    return value ^ (1 << (position % 7 * 8 + bit))


@EXAMPLES
@given(
    st.integers(1, COUNT) | st.just(COUNT), st.sampled_from(COLUMNS), st.integers(0, 1000), st.integers(0, 7)
)
def test_any_flip_in_any_column_is_found(
    original: Path, number: int, column: str, position: int, bit: int
) -> None:
    after = flipped(getattr(read(original)[number - 1], column), position, bit)
    assume(column != "number" or not 1 <= after <= COUNT)  # SQLite keeps numbers apart
    cast = "CAST(? AS TEXT)" if isinstance(after, bytes) else "?"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(original, folder))
        assert faults(copy) == ()
        tamper(copy, (f"UPDATE entries SET {column} = {cast} WHERE number = ?", (after, number)))
        found = faults(copy)
    assert found
    if column == "previous":
        assert found[0] == Fault(number, "does not follow the entry before it")
    elif column == "signature":
        assert found == (Fault(number, "is not signed by the ledger's key"),)
    elif column != "number":
        assert found[0] == Fault(number, "was changed")


@EXAMPLES
@given(st.data())
def test_any_flip_in_the_file_is_found_or_changes_nothing(original: Path, data: st.DataObject) -> None:
    """Most of the file is structure. With the head known, a flip that hides the last entries shows, too."""
    whole = read(original)
    content = bytearray(original.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        copy.write_bytes(content)
        if not faults(copy, Head(COUNT, whole[-1].hash)):
            assert read(copy) == whole


@EXAMPLES
@given(st.integers(1, COUNT), st.sampled_from(["norm", "payload_bytes", "details", "task"]))
def test_hashes_made_anew_fall_by_the_signatures(original: Path, number: int, column: str) -> None:
    """Whoever can write but has no key changes an entry and mends the whole chain behind it."""
    changed, previous = [], START
    for entry in read(original):
        if entry.number == number:
            value = getattr(entry, column)
            change: Any = {column: "{}" if isinstance(value, str) else value + 1}
            entry = replace(entry, **change)
        entry = replace(entry, previous=previous)
        previous = chain.digest(entry)
        changed.append(replace(entry, hash=previous))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(original, folder))
        rows = [tuple(vars(entry).values()) for entry in changed]
        places = ",".join("?" * len(COLUMNS))
        tamper(
            copy,
            ("DELETE FROM entries", ()),
            *((f"INSERT INTO entries VALUES ({places})", row) for row in rows),
        )
        assert faults(copy) == tuple(
            Fault(late, "is not signed by the ledger's key") for late in range(number, COUNT + 1)
        )


def test_a_missing_entry(path: Path) -> None:
    tamper(path, ("DELETE FROM entries WHERE number = ?", (5,)))
    assert faults(path) == (Fault(5, "entries 5 to 5 are missing"),)


def test_missing_first_entries(path: Path) -> None:
    tamper(path, ("DELETE FROM entries WHERE number < ?", (3,)))
    assert faults(path) == (Fault(1, "entries 1 to 2 are missing"),)


def test_a_renumbered_gap(path: Path) -> None:
    tamper(
        path,
        ("DELETE FROM entries WHERE number = ?", (COUNT - 1,)),
        ("UPDATE entries SET number = ? WHERE number = ?", (COUNT - 1, COUNT)),
    )
    assert [fault.number for fault in faults(path)] == [COUNT - 1, COUNT - 1]


def test_swapped_entries(path: Path) -> None:
    move = "UPDATE entries SET number = ? WHERE number = ?"
    tamper(path, (move, (99, 4)), (move, (4, 9)), (move, (9, 99)))
    assert {4, 5, 9, 10} <= {fault.number for fault in faults(path)}


def test_an_added_entry(path: Path) -> None:
    *_, last = read(path)
    forged = replace(last, number=last.number + 1, task="forged")
    places = ",".join("?" * len(COLUMNS))
    tamper(path, (f"INSERT INTO entries VALUES ({places})", tuple(vars(forged).values())))
    assert faults(path)


def test_a_cut_tail_shows_only_against_a_head_kept_elsewhere(path: Path) -> None:
    head = Head(COUNT, read(path)[-1].hash)
    assert faults(path, head) == ()
    tamper(path, ("DELETE FROM entries WHERE number > ?", (20,)))
    assert faults(path) == ()
    assert faults(path, head) == (Fault(COUNT, "is not in the ledger as it was known"),)


def test_nothing_is_chained_to_a_broken_end(path: Path) -> None:
    tamper(path, ("UPDATE entries SET norm = ? WHERE number = ?", (0.0, COUNT)))
    with pytest.raises(ViolationPresent, match=f"entry {COUNT} of the ledger"):
        writer_at(path)


def test_files_that_are_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(HomeboundError, match="there is no ledger"):
        ledger.open_reader(tmp_path / "none")
    text = tmp_path / "text"
    text.write_bytes(b"no database at all, but long enough to be one" * 100)
    other = tmp_path / "other"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    for file, kind in ((text, HomeboundError), (other, ConfigError)):
        for opened in (ledger.open_reader, writer_at):
            with pytest.raises(kind):
                opened(file)
    with pytest.raises(HomeboundError, match="cannot open"):
        writer_at(tmp_path / "no folder" / "l")
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(HomeboundError, match="cannot open"):
        writer_at(tmp_path / "link")


def test_a_ledger_of_a_later_form(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {ledger.VERSION + 1}")
    connection.close()
    for opened in (ledger.open_reader, writer_at):
        with pytest.raises(ConfigError, match=f"has form {ledger.VERSION + 1}"):
            opened(path)


def test_details_are_plain_json(path: Path) -> None:
    assert json.loads(read(path)[3].details) == {"n": 3, "run": "é"}
    writer = writer_at(path)
    with pytest.raises(ValueError, match="Out of range"):
        writer.append("release", "t", 1, details={"x": float("nan")})
    assert writer.append("release", "t", 1).number == COUNT + 1
    writer.close()

# SPDX-License-Identifier: Apache-2.0
"""The ledger: every change in it shows, one writer has it, and neither a crash nor a full disk harms it."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from homebound import ledger
from homebound.errors import ConfigError, HomeboundError, ViolationPresent
from homebound.ledger import COLUMNS, START, Entry, Fault, Head, LedgerWriter

COUNT = 23
EXAMPLES = settings(max_examples=150, deadline=None)


def fill(writer: LedgerWriter, count: int = COUNT) -> list[Entry]:
    return [
        writer.append(
            "release" if i % 3 else "refusal",
            f"task-{i}",
            i,
            payload_sha256="ab" * 32,
            payload_bytes=1000 + i,
            norm=i / 7,
            clipped=i % 2 == 0,
            details={"run": "é", "n": i},
        )
        for i in range(count)
    ]


def writer_at(path: Path) -> LedgerWriter:
    """A writer whose clock gains half a second at each entry."""
    times = itertools.count(1_700_000_000.25, 0.5)
    return ledger.open_writer(path, lambda: next(times))


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
    """A copy of it that a test may change."""
    return Path(shutil.copy(original, tmp_path / ledger.FILE))


def read(path: Path) -> list[Entry]:
    reader = ledger.open_reader(path)
    try:
        return list(reader.entries())
    finally:
        reader.close()


def faults(path: Path, head: Head | None = None) -> tuple[Fault, ...]:
    try:
        reader = ledger.open_reader(path)
    except HomeboundError as error:
        return (Fault(0, str(error)),)
    try:
        return reader.verify(head)
    finally:
        reader.close()


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
        with pytest.raises(ConfigError, match="has form 2"):
            opened(path)


def test_details_are_plain_json(path: Path) -> None:
    assert json.loads(read(path)[3].details) == {"n": 3, "run": "é"}
    writer = writer_at(path)
    with pytest.raises(ValueError, match="Out of range"):
        writer.append("release", "t", 1, details={"x": float("nan")})
    assert writer.append("release", "t", 1).number == COUNT + 1
    writer.close()


# --- crashes and full disks

APPENDER = """
import sys, time
from pathlib import Path
from homebound import ledger
writer = ledger.open_writer(Path(sys.argv[1]), time.time)
while True:
    entry = writer.append("release", "t", 1, details={"filler": "x" * 300})
    sys.stdout.write(f"{entry.number} {entry.hash}\\n")
    sys.stdout.flush()
"""


def test_kill_in_mid_append(tmp_path: Path) -> None:
    """Every entry whose append() returned is there after each of five kills, and the chain goes on."""
    file = tmp_path / "l"
    known = Head(0, START)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", APPENDER, file], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(23)]
        process.kill()
        rest, _ = process.communicate()
        # The last line may be cut short by the kill; what stands before its line feed is whole.
        number, digest = "".join([*lines, rest]).split("\n")[-2].split()
        assert int(number) >= known.number + 23
        known = Head(int(number), digest)
        assert faults(file, known) == ()


@pytest.mark.parametrize("cut", [1, 23, 4097, 20_000])
def test_a_torn_tail_is_dropped_whole(tmp_path: Path, cut: int) -> None:
    """What a power cut leaves of the write-ahead log: its end is gone or garbage."""
    writer = writer_at(tmp_path / "l")
    written = fill(writer)
    for name in ("l", "l-wal"):
        shutil.copy(tmp_path / name, tmp_path / name.replace("l", "torn", 1))
    log = tmp_path / "torn-wal"
    content = log.read_bytes()
    log.write_bytes(content[:-cut] + os.urandom(cut // 2))
    again = writer_at(tmp_path / "torn")
    kept = list(again.reader.entries())
    assert kept == written[: len(kept)]
    assert len(kept) < COUNT
    assert again.append("release", "t", 1).previous == (kept[-1].hash if kept else START)
    again.close()
    assert faults(tmp_path / "torn") == ()
    writer.close()


def test_no_room_to_grow(path: Path) -> None:
    """A file size limit is a full disk that needs no root (setrlimit(2); Python ignores SIGXFSZ)."""
    writer = writer_at(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(HomeboundError, match="cannot be used") as caught:
            writer.append("release", "t", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.hint == "free some space"
    assert len(read(path)) == COUNT
    assert writer.append("release", "t", 1).number == COUNT + 1
    writer.close()
    assert faults(path) == ()


FULL = """
import sys, time
from pathlib import Path
from homebound import ledger
from homebound.errors import HomeboundError
folder = Path(sys.argv[1])
writer = ledger.open_writer(folder / "l", time.time)
appended = 0
try:
    for _ in range(100_000):
        appended = writer.append("release", "t", 1, details={"filler": "x" * 300}).number
except HomeboundError as error:
    assert error.hint == "free some space", error
else:
    raise SystemExit("the disk never became full")
assert writer.reader.head().number == appended
assert writer.reader.verify() == ()
writer.close()
(folder / "ballast").unlink()
writer = ledger.open_writer(folder / "l", time.time)
assert writer.append("release", "t", 1).number == appended + 1
assert writer.reader.verify() == ()
"""


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    """A tmpfs of 1 MiB in a mount namespace of its own, with half of it taken until the end."""
    script = """mount -t tmpfs -o size=1M none "$1"
head -c 524288 /dev/zero >"$1/ballast"
exec "$2" -c "$3" "$1"
"""
    words = ["unshare", "--mount", "sh", "-ec", script, "sh", str(tmp_path), sys.executable, FULL]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_reading_where_nothing_can_be_written(path: Path) -> None:
    """A copy on read-only storage: SQLite cannot make its side files there."""
    written = read(path)
    path.parent.chmod(0o500)
    script = "\n".join(
        (
            "import os, pathlib, sys",
            "assert not os.access(os.path.dirname(sys.argv[1]), os.W_OK)",
            "from homebound.ledger import open_reader",
            "reader = open_reader(pathlib.Path(sys.argv[1]))",
            "print(len(list(reader.entries())), reader.verify())",
        )
    )
    command = [sys.executable, "-c", script, str(path)]
    if os.geteuid() == 0:  # root passes by file modes unless it gives that up (capabilities(7))
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        path.parent.chmod(0o700)
    assert (done.stdout, done.stderr) == (f"{len(written)} ()\n", "")


def test_an_append_is_quick_enough_to_wait_for(tmp_path: Path) -> None:
    """Prints what an append with its two syncs costs here."""
    writer = writer_at(tmp_path / "l")
    start = time.perf_counter()
    fill(writer)
    print(f"append: {(time.perf_counter() - start) / COUNT * 1000:.2f} ms")
    assert writer.reader.head().number == COUNT
    writer.close()

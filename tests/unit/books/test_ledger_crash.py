# SPDX-License-Identifier: Apache-2.0
"""The ledger after kill -9, a torn tail, on a full disk and on read-only storage."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from homebound.books.chain import START, Head
from homebound.errors import HomeboundError
from unit.books.rig import COUNT, faults, fill, read, writer_at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger of COUNT entries."""
    writer = writer_at(tmp_path / "l")
    fill(writer)
    writer.close()
    return tmp_path / "l"


APPENDER = """
import sys, time
from pathlib import Path
from homebound.books import ledger
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
from homebound.books import ledger
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
            "from homebound.books.ledger import open_reader",
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

# SPDX-License-Identifier: Apache-2.0
"""The outbox: a reply is kept whole or not at all, whatever happens to the process or the disk."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebound.gateway.outbox import Outbox, OutboxError, Parcel

BLOBS = st.binary(max_size=300)


def parcel(task: str = "a" * 64, size: int = 1000, *, released: bool = True) -> Parcel:
    return Parcel(
        task, 2**63 + 5, 3, 2**64 - 1, b"envelope", b"tree", (("one", b"\0" * size), ("two", b"")), released
    )


def test_reply_survives_a_restart(tmp_path: Path) -> None:
    Outbox(tmp_path / "outbox").put(parcel())
    again = Outbox(tmp_path / "outbox")
    assert again.waiting() == ["a" * 64]
    assert again.load("a" * 64) == parcel()
    again.remove("a" * 64)
    assert Outbox(tmp_path / "outbox").waiting() == []
    assert list((tmp_path / "outbox").iterdir()) == []


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox")
    box.put(parcel())
    box.open(parcel("b"))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "outbox").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "outbox").stat().st_mode) == 0o700


def test_task_without_an_answer_gets_one_after_a_restart(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    box.open(parcel("died", released=False))
    box.open(parcel("answered", released=False))
    box.put(parcel("answered"))
    box.open(parcel("dropped", released=False))
    box.remove("dropped")
    assert box.waiting() == ["answered"]
    again = Outbox(tmp_path)
    assert sorted(again.waiting()) == ["answered", "died"]
    assert again.load("answered").released
    assert not again.load("died").released


def test_oldest_first(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    for name in ("c", "a", "b"):
        box.put(parcel(name))
        time.sleep(0.01)
    assert box.waiting() == ["c", "a", "b"]


@settings(max_examples=30, deadline=None)
@given(
    run=st.integers(0, 2**64 - 1),
    envelope=BLOBS,
    tree=BLOBS,
    objects=st.lists(st.tuples(st.text(max_size=20), BLOBS), max_size=5),
)
def test_any_parcel_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    run: int,
    envelope: bytes,
    tree: bytes,
    objects: list[tuple[str, bytes]],
) -> None:
    box = Outbox(tmp_path_factory.mktemp("outbox"))
    kept = Parcel("t", run, 0, 1, envelope, tree, tuple(objects), released=False)
    box.put(kept)
    assert box.load("t") == kept


@pytest.mark.parametrize("cut", [0, 3, 10, 200, 900])
def test_damage_is_seen(tmp_path: Path, cut: int) -> None:
    box = Outbox(tmp_path)
    box.put(parcel())
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    with pytest.raises(OutboxError, match="damaged"):
        box.load("a" * 64)
    path.write_bytes(whole[:-1] + b"\1")
    with pytest.raises(OutboxError, match="damaged"):
        box.load("a" * 64)
    path.write_bytes(whole)
    assert box.load("a" * 64) == parcel()


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b", "a\0b", "x" * 129, "a.reply"])
def test_name_of_a_task_is_no_path(tmp_path: Path, name: str) -> None:
    box = Outbox(tmp_path / "outbox")
    with pytest.raises(OutboxError):
        box.put(parcel(name))
    assert list((tmp_path / "outbox").iterdir()) == []
    box.put(parcel("x" * 128))


WRITER = """
import sys
from pathlib import Path
from homebound.gateway.outbox import Outbox, Parcel
box = Outbox(Path(sys.argv[1]))
print("go", flush=True)
for number in range(10**6):
    box.put(Parcel(f"t{number}", 1, 1, 1, b"e", b"t", (("o", bytes([number % 256]) * 300_000),), True))
    print(number, flush=True)
"""


def test_kill_leaves_whole_replies_only(tmp_path: Path) -> None:
    """Killed in mid-write, again and again: what was confirmed is there, nothing is half there."""
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "go\n"
            time.sleep(0.05 + 0.013 * attempt)
            process.send_signal(signal.SIGKILL)
            confirmed = process.stdout.read().split()
        box = Outbox(folder)
        waiting = box.waiting()
        assert {f"t{number}" for number in confirmed} <= set(waiting)
        assert len(waiting) <= len(confirmed) + 1
        assert all(len(box.load(task).objects[0][1]) == 300_000 for task in waiting)
        assert len(list(folder.iterdir())) == len(waiting)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_full_disk_is_told_and_harms_nothing(small_disk: Path) -> None:
    box = Outbox(small_disk / "outbox")
    box.put(parcel("first", 50_000))
    with pytest.raises(OutboxError) as caught:
        box.put(parcel("second", 500_000))
    assert caught.value.full
    assert "space" in caught.value.hint
    assert box.waiting() == ["first"]
    assert box.load("first") == parcel("first", 50_000)
    assert [path.name for path in (small_disk / "outbox").iterdir()] == ["first.reply"]
    box.remove("first")
    box.put(parcel("third", 100_000))
    assert box.waiting() == ["third"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError) as caught:
        Outbox(tmp_path / "file" / "outbox")
    assert not caught.value.full
    assert os.listdir(tmp_path) == ["file"]

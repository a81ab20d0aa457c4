# SPDX-License-Identifier: Apache-2.0
"""follow.py and the verbs on it: each attempt once, in order, and no silence about a gap."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from homebound.cli import follow
from homebound.cli.main import main
from unit.cli.test_reading import document

ROLE: dict[str, Any] = {
    "state": "running", "pid": 23, "transmit_bytes": 1000, "receive_bytes": 500, "denied": 0, "restarts": 0,
    "cpu_seconds": 1.0, "memory_bytes": 23_000_000,
}  # fmt: skip


def event(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "time": 1_800_000_000.0 + number, "role": "trainer", "rule": "connect4", "program": "hb_connect4",
        "pid": number, "tid": number, "family": 2, "protocol": 6, "address": "203.0.113.9", "port": 443,
        "syscall": 42, "result": -1, "detail": 0, **changes,
    }  # fmt: skip


def at(last: int, keep: int = 64, **changes: Any) -> dict[str, Any]:
    """A status document after ``last`` attempts."""
    return document(denied_recent=[event(n) for n in range(max(0, last - keep), last)], **changes)


def pids(found: follow.Fresh) -> list[int]:
    return [event["pid"] for event in found.events]


def test_each_attempt_once() -> None:
    assert follow.fresh(None, at(3)) == follow.Fresh(tuple(at(3)["denied_recent"]))
    assert pids(follow.fresh(at(0), at(3))) == [0, 1, 2]
    assert pids(follow.fresh(at(3), at(3))) == []
    assert pids(follow.fresh(at(3), at(26))) == list(range(3, 26))
    assert not follow.fresh(at(3), at(26)).gap


def test_a_gap_is_told() -> None:
    found = follow.fresh(at(3), at(100))
    assert found.gap
    assert pids(found) == list(range(36, 100))
    assert not follow.fresh(at(64), at(127)).gap


def test_a_new_daemon_starts_anew() -> None:
    found = follow.fresh(at(3), at(2, since=2.0))
    assert (pids(found), found.gap) == ([0, 1], False)


def test_a_line_says_who_what_and_where() -> None:
    line = follow.line(event(4711))
    for word in ("trainer", "connect4", "EPERM", "process 4711", "to 203.0.113.9:443"):
        assert word in line
    assert "to [2001:db8::1]:443" in follow.line(event(1, address="2001:db8::1"))
    assert " to " not in follow.line(event(1, address="", port=0))
    assert len(follow.line(event(4194304))) < 80


def test_top_shows_speeds_between_two_looks() -> None:
    before = {**at(0, roles={"gateway": ROLE}), "asked": 100.0}
    grown = {**ROLE, "transmit_bytes": 1000 + 46, "cpu_seconds": 2.0}
    after = {**at(3, roles={"gateway": grown}), "asked": 102.0}
    (row,) = next(table for table in follow.top(before, after, 102.0) if table.title == "roles").rows
    assert "23 B/s" in row
    assert "50 %" in row
    (first,) = next(table for table in follow.top(None, after, 102.0) if table.title == "roles").rows
    assert "23 B/s" not in first  # the control: nothing to compare with
    tables = {table.title: table for table in follow.top(before, after, 102.0)}
    newest = tables["last refused attempts"].rows[0]
    assert newest[-1] == "2"


@contextmanager
def daemon(run: Path, answers: Sequence[dict[str, Any]]) -> Iterator[None]:
    """A status socket that gives one answer after the other and then is gone."""
    (run / "edge").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run / "edge" / "status.sock"))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(json.dumps(answer).encode())
            listener.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.fixture
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def test_events_once_and_followed(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = ["--name", "edge", "--run-folder", str(run_folder)]
    with daemon(run_folder, [at(2), at(2), at(5), at(100)]):
        assert main(["events", *place]) == 0
        assert len(capfd.readouterr().out.splitlines()) == 2
        assert main(["events", *place, "--follow"]) == 3  # until the daemon is gone
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("process ")[1].split()[0] for line in lines[:5]] == ["0", "1", "2", "3", "4"]
    assert lines[5].startswith("... more than")
    assert len(lines) == 6 + 64


def test_events_as_json(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with daemon(run_folder, [at(3)]):
        assert main(["events", "--json", "--name", "edge", "--run-folder", str(run_folder)]) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["pid"] for line in found] == [0, 1, 2]
    assert {line["schema"] for line in found} == {1}


def test_top_on_a_pipe_and_as_json(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = ["--name", "edge", "--run-folder", str(run_folder)]
    with daemon(run_folder, [at(3), at(3)]):
        assert main(["top", "-n", "1", *place]) == 0
        out = capfd.readouterr().out
        assert main(["top", "-n", "1", "--json", *place]) == 0
    assert "last refused attempts" in out
    assert "gateway" in out
    assert "\x1b" not in out
    assert json.loads(capfd.readouterr().out)["name"] == "edge"


def test_top_on_a_terminal_draws_over_itself(run_folder: Path) -> None:
    ours, theirs = pty.openpty()
    words = [
        sys.executable,
        "-m",
        "homebound",
        "top",
        "-n",
        "2",
        "--name",
        "edge",
        "--run-folder",
        str(run_folder),
    ]
    with daemon(run_folder, [at(3), at(4)]):
        done = subprocess.Popen(words, stdout=theirs, stdin=theirs, env={**os.environ, "TERM": "xterm"})
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
        assert done.wait(20) == 0
    os.close(ours)
    assert b"\x1b[?1049h" in shown  # the alternate screen, so that the shell's lines come back
    assert b"\x1b[?1049l" in shown
    assert shown.count(b"last refused attempts") == 2


# They would count for more than the terminal.
SIZES = ("COLUMNS", "LINES")


@pytest.mark.parametrize(("columns", "rows"), [(100, 30), (79, 24), (60, 20), (44, 12)])
def test_top_fits_a_small_terminal(run_folder: Path, columns: int, rows: int) -> None:
    """What changes stands at the top, in whole words, and no line is wider than the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    words = [sys.executable, "-m", "homebound", "top", "-n", "1", "--name", "edge"]
    with daemon(run_folder, [at(23)]):
        done = subprocess.Popen(
            [*words, "--run-folder", str(run_folder)], stdout=theirs, stdin=theirs,
            env={**{name: value for name, value in os.environ.items() if name not in SIZES}, "TERM": "xterm"},
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
        assert done.wait(20) == 0
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).splitlines()
    print("\n".join(lines))
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert len(lines) <= rows
    for word in ("roles", "supervisor", "trainer", "last refused attempts"):
        assert any(line.startswith(word) for line in lines)
    assert ("received" in lines[1]) is (columns >= follow.WIDE)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # EIO: the other end is closed
        return b""

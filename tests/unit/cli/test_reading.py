# SPDX-License-Identifier: Apache-2.0
"""The verbs that read a running or a stopped device: status, ledger, doctor. Width, colour, exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from homebound.books.ledger import open_writer
from homebound.cli.main import main
from unit import devicefile

ESCAPE = "\x1b["
ROLES = ("supervisor", "watcher", "trainer", "guard", "gateway")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    return devicefile.write(tmp_path)


def document(**changes: Any) -> dict[str, Any]:
    """A status document with large numbers and long names."""
    role = {
        "state": "running", "pid": 4194304, "transmit_bytes": 123456789012, "receive_bytes": 999999,
        "denied": 1234567, "restarts": 12, "cpu_seconds": 123456.7, "memory_bytes": 987654321,
        "source": {"cpu": "cgroup", "memory": "psutil"},
    }  # fmt: skip
    found = {
        "schema": 1, "name": "edge", "mode": "enforce", "state": "training", "problem": "",
        "version": "0.1.0", "since": 1.0, "rounds_completed": 22,
        "round": {"number": 23, "kind": "train", "state": "released"},
        "roles": dict.fromkeys(ROLES, role),
        "walls": {"seccomp": {"active": True, "detail": "7 attempts refused"},
                  "landlock": {"active": False, "detail": "got out: " + "write_beside, " * 12}},
        "released": {"updates": 22, "payload_bytes": 1234567}, "refused": {"timeout": 1},
        "declared_stream_bytes": 5, "kernel_stream_bytes": 5, "unaccounted_bytes": 0, "violations": [],
        "canary": {"time": 1.0, "age_seconds": 12.3, "out": 0, "tried": 14},
        "federation": {"connected": False, "address": "a-very-long-name.of.a.superlink.example.org:8000",
                       "reason": "unreachable", "hint": "look whether the SuperLink runs"},
    }  # fmt: skip
    return found | changes


@contextmanager
def daemon(folder: Path, name: str, answer: bytes) -> Iterator[None]:
    """A status socket that gives every caller the same answer."""
    (folder / name).mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / name / "status.sock"))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path leaves room for a socket's name."""
    return tmp_path_factory.mktemp("run")


def as_status(found: Mapping[str, Any]) -> bytes:
    return json.dumps(found).encode()


# --- status ------------------------------------------------------------------------------------------


def ask(run: Path, *more: str) -> int:
    return main(["status", "--name", "edge", "--run-folder", str(run), *more])


def test_not_running_is_3(short: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert ask(short) == 3
    assert capfd.readouterr().err.startswith("homebound: no daemon named edge runs\n")


def test_not_running_names_those_that_do(short: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with daemon(short, "other", b""):
        assert ask(short) == 3
    assert "there is other: name one with --name" in capfd.readouterr().err


def test_a_socket_that_nobody_listens_on_is_3(short: Path) -> None:
    with daemon(short, "edge", b""):
        pass
    assert ask(short) == 3


def test_running_is_0_and_json_is_the_document(short: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with daemon(short, "edge", as_status(document())):
        assert ask(short, "--json") == 0
    assert json.loads(capfd.readouterr().out) == document()


def test_the_device_comes_from_the_configuration(
    device: Path, short: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    device.write_text(re.sub(r'paths\.run = ".*"', f'paths.run = "{short}"', device.read_text()))
    with daemon(short, "edge", as_status(document())):
        assert main(["status", "-c", str(device), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["name"] == "edge"


def test_a_violation_is_4(short: Path, capfd: pytest.CaptureFixture[str]) -> None:
    violation = {"rule": "socket_stream", "role": "trainer", "count": 23, "last": 1.0}
    with daemon(short, "edge", as_status(document(violations=[violation]))):
        assert ask(short) == 4
        out, err = capfd.readouterr()
        assert re.search(r"socket_stream +trainer +23", out)
        assert err.startswith("homebound: a violation stands: socket_stream\n")
        assert ask(short, "--json") == 4


@pytest.mark.parametrize(
    ("answer", "wanted"), [(b"", 69), (b'{"schema":', 69), (b"[]", 1), (b'{"schema": 2}', 1)]
)
def test_no_right_answer(short: Path, answer: bytes, wanted: int, capfd: pytest.CaptureFixture[str]) -> None:
    with daemon(short, "edge", answer):
        assert ask(short) == wanted
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_a_table_is_under_80_columns_and_says_what_matters(
    short: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with daemon(short, "edge", as_status(document())):
        assert ask(short) == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) < 80
    for words in (
        "edge",
        "enforce",
        "OPEN",
        "holds",
        "unreachable",
        "0 of 14 got out",
        "0 B unaccounted",
        *ROLES,
    ):
        assert words in out
    assert ESCAPE not in out


def on_terminal(words: list[str], **environment: str) -> str:
    """What a command writes to a terminal of 100 columns."""
    control, terminal = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-m", "homebound", *words],
        stdin=terminal, stdout=terminal, stderr=terminal,
        env={**clean, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    )  # fmt: skip
    os.close(terminal)
    parts = []
    with open(control, "rb", buffering=0) as reading:
        try:
            while part := reading.read(65536):
                parts.append(part)
        except OSError:
            pass  # EIO: the last writer closed the terminal
    child.wait()
    return b"".join(parts).decode()


def test_colour_on_a_terminal_and_never_with_no_color(short: Path) -> None:
    words = ["status", "--name", "edge", "--run-folder", str(short)]
    with daemon(short, "edge", as_status(document())):
        coloured = on_terminal(words)
        plain = on_terminal(words, NO_COLOR="1")
    assert ESCAPE in coloured
    assert ESCAPE not in plain
    without = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in without.splitlines()] == [line.rstrip() for line in plain.splitlines()]
    assert max(map(len, plain.splitlines())) < 80


# --- ledger ------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(device: Path) -> Path:
    path = device.parent / "state" / "edge" / "guard" / "ledger.sqlite3"
    path.parent.mkdir(parents=True)
    writer = open_writer(path, lambda: 1.7e9)
    for number in range(23):
        writer.append(
            "release", f"task-{number}", number, payload_sha256="a" * 64, payload_bytes=10**9, norm=0.5
        )
    writer.close()
    return path


def test_ledger_show(device: Path, ledger: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "show", "-c", str(device), "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["entries"]) == 23
    assert main(["ledger", "show", "--file", str(ledger)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert sum("release" in line for line in lines) == 23
    assert max(map(len, lines)) < 80


def test_ledger_verify(device: Path, ledger: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "verify", "-c", str(device)]) == 0
    assert capfd.readouterr().out.startswith("whole: 23 entries, head ")
    data = ledger.read_bytes()
    assert data.count(b"task-7") == 1
    ledger.write_bytes(data.replace(b"task-7", b"task-8"))
    assert main(["ledger", "verify", "-c", str(device)]) == 4
    out, err = capfd.readouterr()
    assert "entry 8 was changed" in out
    assert err.startswith(f"homebound: the ledger {ledger} is not as it was written\n")
    assert main(["ledger", "verify", "-c", str(device), "--json"]) == 4
    assert json.loads(capfd.readouterr().out)["faults"] == [{"number": 8, "problem": "was changed"}]


# --- doctor ------------------------------------------------------------------------------------------


def test_doctor_as_table_and_json_agree(device: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = main(["doctor", "-c", str(device), "--json"])
    found = json.loads(capfd.readouterr().out)
    assert first == (0 if found["ready"] else 1)
    assert {check["need"] for check in found["checks"]} == {"required", "wanted"}
    assert {check["result"] for check in found["checks"]} <= {"good", "bad", "unknown"}
    assert all(
        check["fact"] and bool(check["advice"]) == (check["result"] != "good") for check in found["checks"]
    )
    assert main(["doctor", "-c", str(device)]) == first
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) < 80
    for check in found["checks"]:
        assert any(check["name"] in line for line in lines)


def test_doctor_fails_for_what_is_required(device: Path, capfd: pytest.CaptureFixture[str]) -> None:
    device.write_text("mode = 1\n")
    assert main(["doctor", "-c", str(device)]) == 1
    assert "configuration" in capfd.readouterr().err.splitlines()[0]

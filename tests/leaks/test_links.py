# SPDX-License-Identifier: Apache-2.0
"""A link of the trainer carries bytes and nothing else; a crash of it leaves nothing, whoever takes dumps."""

from __future__ import annotations

import array
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from homebound import channel
from homebound.leaktest.attempts import channel_named
from homebound.leaktest.device import device
from homebound.leaktest.run import leaktest
from leaks.conftest import USERS_BASE
from leaks.trainers import LINK_FD, own_data, trainer, write_app

pytestmark = pytest.mark.root

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
RIGHTS = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]


def refuses_descriptors() -> bool:
    """Whether this kernel can (Linux 6.16)."""
    with socket.socket(socket.AF_UNIX) as made:
        try:
            made.setsockopt(socket.SOL_SOCKET, channel.SO_PASSRIGHTS, 0)
        except OSError:
            return False
    return True


def test_a_plain_pair_passes_descriptors_and_a_link_does_not() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert left.sendmsg([b"x"], RIGHTS) == 1
    left, right = channel.pair()
    with left, right:
        assert left.send(b"x") == 1
        if not refuses_descriptors():
            pytest.skip("this kernel has no SO_PASSRIGHTS")
        for end in (left, right):
            with pytest.raises(PermissionError):
                end.sendmsg([b"x"], RIGHTS)


def test_the_trainer_cannot_hand_the_guard_a_descriptor(folder: Path) -> None:
    """Not even when it allows them again at its own end: what counts is the end that would receive."""
    if not refuses_descriptors():
        pytest.skip("this kernel has no SO_PASSRIGHTS")
    lines = [
        "import array",
        f"link = socket.socket(fileno=os.dup({LINK_FD}))",
        "rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))]",
        f"attempt('allowed', lambda: link.setsockopt(socket.SOL_SOCKET, {channel.SO_PASSRIGHTS}, 1))",
        "attempt('passed', lambda: link.sendmsg([b'x'], rights))",
        "link.close()",
    ]
    with trainer(write_app(folder / "app", lines), own_data(folder / "data")) as running:
        assert running.load() == "ready"
        assert running.train().kind == "update"
        assert running.said() == {"allowed": "through", "passed": "EPERM"}


@contextmanager
def dumps_taken_by(program: Path) -> Iterator[None]:
    """Let the kernel give core dumps to a program for a moment, as systemd has it; on the whole host."""
    before = CORE_PATTERN.read_text()
    CORE_PATTERN.write_text(f"|{program} %u\n")
    try:
        yield
    finally:
        CORE_PATTERN.write_text(before)


@pytest.mark.usefixtures("network")
def test_a_program_that_takes_dumps_gets_none_of_a_role(folder: Path) -> None:
    """A limit of 0 does not stop that, and a child of the app is dumpable again: only a limit of 1 does."""
    taken = folder / "taken"
    program = folder / "take"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\necho $1 >>{taken}\n")
    program.chmod(0o755)
    with dumps_taken_by(program), device(USERS_BASE) as made:
        report = leaktest([channel_named("core_dump")], made.launch, made.watch)
    (outcome,) = report.channels
    assert (outcome.control, outcome.blocked, outcome.wall) == ("passed", True, "no-core-dump"), outcome
    # The control's two, one of them with a limit of 0.
    assert taken.read_text().split() == ["0", "0"]

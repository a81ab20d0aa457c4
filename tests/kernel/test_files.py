# SPDX-License-Identifier: Apache-2.0
"""Opened files of a role: 23 opens in each area are 23 there, for reading and for writing, by each call that
opens; one outside of the role's mounts is told, without a name. What failed, whoever starts a role, and a
process whose mounts nobody told count nothing."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from homebound.events import Kind, Program, Role
from homebound.kernel import bpf, files, maps, syscalls
from homebound.kernel.files import FileArea, FileMode, MountRecord
from kernel.rig import Device, with_map
from kernel.test_syscalls import become_stranger, call

pytestmark = pytest.mark.root

SHOTS = 23
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
AT_FDCWD, O_PATH = -100, 0o10000000
LIBC = ctypes.CDLL(None, use_errno=True)
NAMES = ("data", "data/below", "app", "state", "state/mounted", "system", "later")


@pytest.fixture
def device(device: Device) -> Device:
    """With the program that reads structs of the kernel."""
    return with_map(device, "opens")


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder that an ordinary user can reach; what is mounted there goes with the process."""
    with tempfile.TemporaryDirectory(prefix="homebound-files-") as name:
        yield Path(name)


def mount(folder: Path) -> None:
    """Memory of its own, in which anybody may write one file."""
    folder.mkdir(exist_ok=True)
    assert LIBC.mount(b"none", bytes(folder), b"tmpfs", 0, b"mode=0777") == 0, os.strerror(ctypes.get_errno())
    (folder / "file").touch()
    (folder / "file").chmod(0o666)


def as_role(device: Device, role: Role, top: Path, function: Callable[[], Any]) -> Any:
    """Run as an ordinary user of that role, whose mounts were told; all but ``later``, made afterwards."""
    folders = {
        str(top / "data"): FileArea.DATA,
        str(top / "app"): FileArea.APP,
        f"{top}/state/": FileArea.STATE,
    }
    top.chmod(0o777)

    def act() -> Any:
        assert LIBC.unshare(CLONE_NEWNS) == 0
        assert LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
        for name in NAMES[:-1]:
            mount(top / name)
        files.tell(device.probes.map_fd("mount_area"), os.getpid(), folders)
        mount(top / NAMES[-1])
        become_stranger()
        return function()

    return device.run(role, act)


def counted(device: Device) -> dict[tuple[Role, FileArea, FileMode], int]:
    found = files.read_opens(device.probes.map_fd("opens"))
    return {key: count for key, count in found.items() if count}


def shoot(path: Path, flags: int) -> None:
    for _ in range(SHOTS):
        os.close(os.open(path, flags))


AREAS = {
    "data": FileArea.DATA, "data/below": FileArea.DATA, "app": FileArea.APP, "state": FileArea.STATE,
    "state/mounted": FileArea.SYSTEM, "system": FileArea.SYSTEM, "later": FileArea.OTHER,
}  # fmt: skip


@pytest.mark.parametrize("name", AREAS)
@pytest.mark.parametrize("mode", FileMode)
def test_areas(device: Device, top: Path, name: str, mode: FileMode) -> None:
    """Each is exact, and nothing else moves; only what lies outside is told, by its area alone."""
    file = top / name / "file"
    flags = os.O_RDWR if mode is FileMode.WRITE else os.O_RDONLY
    as_role(device, Role.TRAINER, top, lambda: shoot(file, flags))
    area = AREAS[name]
    assert counted(device) == {(Role.TRAINER, area, mode): SHOTS}
    told = [event for event in device.activity() if event.kind is Kind.FILE_OPEN]
    assert len(told) == (SHOTS if area is FileArea.OTHER else 0)
    assert {(e.area, e.detail, e.role, e.rule, e.program, e.address) for e in told} <= {
        (FileArea.OTHER, mode, Role.TRAINER, None, Program.FILES, "")
    }
    state = maps.read_program_state(device.probes.map_fd("program_state"))[Program.FILES]
    assert (state.made, state.lost, state.failed_lookups) == (len(told), 0, 0)


OPENING: dict[str, tuple[Callable[[bytes], int], FileMode]] = {
    "open": (lambda path: call("open", path, os.O_RDONLY), FileMode.READ),
    "creat": (lambda path: call("creat", path, 0o666), FileMode.WRITE),
    "openat": (lambda path: call("openat", AT_FDCWD, path, os.O_WRONLY), FileMode.WRITE),
    "openat2": (
        lambda path: call("openat2", AT_FDCWD, path, struct.pack("3Q", os.O_RDONLY, 0, 0), 24),
        FileMode.READ,
    ),
    "openat with O_PATH": (lambda path: call("openat", AT_FDCWD, path, O_PATH), FileMode.READ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPENING)
def test_every_call_that_opens(device: Device, top: Path, name: str) -> None:
    one, mode = OPENING[name]
    path = bytes(top / "data/file")
    results = as_role(device, Role.GUARD, top, lambda: [one(path) for _ in range(SHOTS)])
    assert min(results) >= 0, results
    assert counted(device) == {(Role.GUARD, FileArea.DATA, mode): SHOTS}


def test_a_folder_of_somebody_elses_mounts(device: Device, top: Path) -> None:
    """The twin: the same file by a descriptor from before, which a role may have been handed."""
    (top / "file").touch()
    outside = os.open(top, os.O_RDONLY | os.O_DIRECTORY)

    def through() -> None:
        for _ in range(SHOTS):
            os.close(os.open("file", os.O_RDONLY, dir_fd=outside))

    try:
        as_role(device, Role.TRAINER, top, lambda: shoot(top / "file", os.O_RDONLY))
        assert counted(device) == {(Role.TRAINER, FileArea.SYSTEM, FileMode.READ): SHOTS}
        as_role(device, Role.TRAINER, top, through)
    finally:
        os.close(outside)
    assert counted(device) == {
        (Role.TRAINER, FileArea.SYSTEM, FileMode.READ): SHOTS,
        (Role.TRAINER, FileArea.OTHER, FileMode.READ): SHOTS,
    }


def test_what_does_not_count(device: Device, top: Path) -> None:
    """Opens that fail, those of other roles' makers, those of a process whose mounts nobody told."""

    def fail() -> None:
        for _ in range(SHOTS):
            call("openat", AT_FDCWD, bytes(top / "data/nothing"), os.O_RDONLY)

    def untold() -> None:
        become_stranger()
        shoot(Path("/dev/null"), os.O_RDONLY)

    as_role(device, Role.TRAINER, top, fail)
    as_role(device, Role.SUPERVISOR, top, lambda: shoot(top / "data/file", os.O_RDONLY))
    as_role(device, Role.NONE, top, lambda: shoot(top / "data/file", os.O_RDONLY))
    device.run(Role.TRAINER, lambda: shoot(Path("/dev/null"), os.O_RDONLY))
    device.run(Role.TRAINER, untold)
    assert counted(device) == {}


def test_what_was_told_is_forgotten(device: Device, top: Path) -> None:
    """A new process is told anew; of the one before nothing is left."""
    fd = device.probes.map_fd("mount_area")
    size = ctypes.sizeof(MountRecord)
    found = []
    for _ in range(2):
        as_role(device, Role.TRAINER, top, lambda: 0)
        keys = [MountRecord.from_buffer_copy(key) for key in bpf.keys(fd, size)]
        assert len({key.namespace for key in keys}) == 1
        assert sorted(key.number for key in keys)[0] == 0
        found.append(len(keys))
    assert found[0] == found[1] > len(NAMES)
    files.forget(fd)
    assert list(bpf.keys(fd, size)) == []


def test_numbers_of_calls() -> None:
    """The header's numbers are those of this architecture, and no call that opens is left out."""
    text = (ROOT / "bpf/include/call.bpf.h").read_text()
    part = text.split("defined(__TARGET_ARCH_")[1 if os.uname().machine == "x86_64" else 2]
    found = {name.lower(): int(number) for name, number in re.findall(r"HB_CALL_(\w+) (\d+)", part)}
    wanted = syscalls.resolve({name: name for name in ("open", "creat", "openat", "openat2", "bpf")})
    assert found == {name: number for number, name in wanted.items()}

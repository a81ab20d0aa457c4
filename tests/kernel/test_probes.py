# SPDX-License-Identifier: Apache-2.0
"""The life of the programs: blocking outlives the process, a restart opens no window, nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from homebound.errors import HomeboundError, InternalError, PermissionMissing
from homebound.events import Program, Role, Rule
from homebound.kernel import bpf, features
from homebound.kernel.libbpf import LibbpfError
from homebound.kernel.probes import OBJECTS, ProbeError, Probes
from kernel.conftest import How, MakeDevice
from kernel.rig import Device, child, in_child, unattached

pytestmark = pytest.mark.root

SHOTS = 23
LEVEL = 2


def may_make_a_socket() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except PermissionError:
        return False
    return True


def names_of(state: str, kind: str) -> set[str]:
    """What bpftool lists."""
    text = subprocess.run(["bpftool", kind, state], check=True, capture_output=True, text=True).stdout
    return {word for word in text.split() if word.startswith("hb_")}


def test_every_program_is_there(device: Device) -> None:
    """Attached, by the kernel's word, and shown by name to whoever looks."""
    states = device.probes.programs()
    assert [state.name for state in states] == [program.bpf_name for program in Program]
    assert unattached(device.probes) == {}
    assert all(state.attached != bool(state.reason) for state in states)
    # The kernel keeps 15 characters of a name.
    assert {state.name[:15] for state in states if state.attached} <= names_of("list", "prog")
    attached = subprocess.run(
        ["bpftool", "cgroup", "list", str(device.cgroup)], check=True, capture_output=True, text=True
    ).stdout
    assert {name for name in attached.split() if name.startswith("hb_")} == {
        program.bpf_name for program in (*OBJECTS["egress"], *OBJECTS["sockets"])
    }


def test_runs_are_counted(device: Device) -> None:
    """The cost of a program is a number that moves."""
    before = {state.name: state for state in device.probes.programs()}["hb_sock_create"]
    device.run(Role.TRAINER, lambda: [may_make_a_socket() for _ in range(SHOTS)])
    after = {state.name: state for state in device.probes.programs()}["hb_sock_create"]
    assert after.runs - before.runs == SHOTS
    assert after.run_seconds > before.run_seconds


def test_blocking_outlives_the_daemon(
    objects: Path, bpf_file_system: Path, device_cgroup: Path, how: How
) -> None:
    """A daemon that is killed leaves its programs in force; the next one replaces and removes them."""
    pins = bpf_file_system / device_cgroup.name
    inside = device_cgroup / Role.TRAINER.label
    assert in_child(may_make_a_socket, inside) is True  # the control: nothing is attached yet

    def daemon() -> None:
        Probes.load(objects, device_cgroup, LEVEL, True, pins, **how)
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        with pytest.raises(AssertionError, match="without a word"):
            in_child(daemon)
        assert in_child(may_make_a_socket, inside) is False
        probes = Probes.load(objects, device_cgroup, LEVEL, True, pins, **how)
        assert sorted(path.name for path in pins.iterdir()) == ["links", "maps", "programs"]
        assert in_child(may_make_a_socket, inside) is False
        probes.remove()
        assert in_child(may_make_a_socket, inside) is True
        assert not pins.exists()
    finally:
        if pins.exists():
            Probes.load(objects, device_cgroup, LEVEL, True, pins).remove()


def test_close_leaves_remove_removes(make_device: MakeDevice) -> None:
    """close() lets go and leaves all in force; remove() ends it."""
    device = make_device()
    device.stream.close()
    device.probes.close()
    assert device.run(Role.TRAINER, may_make_a_socket) is False
    device.probes.remove()
    assert device.run(Role.TRAINER, may_make_a_socket) is True
    assert not device.pins.exists()


def test_restart_opens_no_window(make_device: MakeDevice, objects: Path, how: How) -> None:
    """A task that tries without pause gets no socket while the programs are replaced again and again."""
    device = make_device()
    stop = device.cgroup.name  # a file name, not a path: in the working folder of nobody else
    flag = Path("/tmp") / stop

    def hammer() -> Any:
        tried = escaped = 0
        while not flag.exists():
            tried += 1
            escaped += may_make_a_socket()
        return tried, escaped

    loaded: list[Probes] = []
    try:
        with child(hammer, device.of(Role.TRAINER)) as result:
            for _ in range(SHOTS):
                loaded.append(Probes.load(objects, device.cgroup, LEVEL, True, device.pins, **how))
                for old in loaded[:-1]:
                    old.close()
            device.probes.close()  # its links are open descriptors: let go, so that only pins hold
            time.sleep(0.05)
            flag.touch()
            tried, escaped = result()
        assert tried > SHOTS
        assert escaped == 0
        assert sorted(path.name for path in device.pins.iterdir()) == ["links", "maps", "programs"]
    finally:
        flag.unlink(missing_ok=True)
        for probes in loaded:
            probes.close()
        device.probes._open()


def test_a_detached_program_is_told(device: Device) -> None:
    """Somebody with the right to do so detaches a program: the state says it at once."""
    link = device.probes.programs_open["hb_egress"][1]
    assert bpf.detach_link(link)
    assert not bpf.detach_link(device.probes.programs_open["hb_syscall_exit"][1])  # not on a cgroup
    states = {state.name: state for state in device.probes.programs()}
    assert not states["hb_egress"].attached
    assert "detached" in states["hb_egress"].reason
    assert list(unattached(device.probes)) == ["hb_egress"]


def test_roles_can_be_taken_back(device: Device) -> None:
    """unassign: what is left in the cgroup may nothing."""
    gateway = device.of(Role.GATEWAY).stat().st_ino
    assert device.run(Role.GATEWAY, may_make_a_socket) is True
    device.probes.unassign(gateway)
    assert device.run(Role.GATEWAY, may_make_a_socket) is False
    assert device.denied() == {(Role.NONE, Rule.SOCK_CREATE): 1}
    device.probes.assign(gateway, Role.GATEWAY)
    assert device.run(Role.GATEWAY, may_make_a_socket) is True


def test_two_devices_do_not_meet(
    make_device: MakeDevice, objects: Path, bpf_file_system: Path, device_cgroup: Path, how: How
) -> None:
    """Each counts its own, whatever the other does."""
    first = make_device()
    other = device_cgroup.with_name(device_cgroup.name + "-other")
    (other / "trainer").mkdir(parents=True)
    pins = bpf_file_system / other.name
    second = Probes.load(objects, other, LEVEL, True, pins, **how)
    try:
        second.assign((other / "trainer").stat().st_ino, Role.TRAINER)
        assert in_child(may_make_a_socket, other / "trainer") is False
        assert first.denied() == {}
        assert first.run(Role.TRAINER, may_make_a_socket) is False
        assert first.denied() == {(Role.TRAINER, Rule.SOCK_CREATE): 1}
    finally:
        second.remove()
        (other / "trainer").rmdir()
        other.rmdir()


def loading_fails(objects: Path, cgroup: Path, pins: Path) -> HomeboundError:
    """The error; checks that it is one line with a hint and that nothing new is left."""
    with pytest.raises(HomeboundError) as caught:
        Probes.load(objects, cgroup, LEVEL, True, pins)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert not pins.exists() or list(pins.iterdir()) == []
    if pins.exists():
        pins.rmdir()
    return caught.value


def test_bad_input(objects: Path, bpf_file_system: Path, device_cgroup: Path, tmp_path: Path) -> None:
    """No objects, a broken object, no cgroup, pins in the wrong place: each has its line."""
    pins = bpf_file_system / device_cgroup.name
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "egress.bpf.o" in loading_fails(empty, device_cgroup, pins).message
    broken = tmp_path / "broken"
    shutil.copytree(objects, broken)
    (broken / "syscalls.bpf.o").write_bytes(b"\x7fELF nothing")
    assert isinstance(loading_fails(broken, device_cgroup, pins), LibbpfError)
    assert "cannot open the cgroup" in loading_fails(objects, device_cgroup / "nowhere", pins).message
    assert "mount -t bpf" in loading_fails(objects, device_cgroup, tmp_path / "pins").hint
    assert in_child(may_make_a_socket, device_cgroup / "trainer") is True


def test_without_rights(objects: Path, bpf_file_system: Path, device_cgroup: Path) -> None:
    """An ordinary user gets an error of ours, not a traceback."""
    pins = bpf_file_system / device_cgroup.name

    def attempt(readable: Path) -> Any:
        os.setresuid(60601, 60601, 60601)
        try:
            Probes.load(readable, device_cgroup, LEVEL, True, pins)
        except PermissionMissing as error:
            return error.hint
        return "worked"

    try:
        with tempfile.TemporaryDirectory() as folder:  # the clone may lie where only root gets to
            Path(folder).chmod(0o755)
            readable = Path(shutil.copytree(objects, Path(folder, "objects")))
            assert in_child(lambda: attempt(readable)) == "run as root"
    finally:
        if pins.exists():
            pins.rmdir()


def test_a_failed_load_leaves_the_old_in_force(make_device: MakeDevice, tmp_path: Path) -> None:
    """An upgrade that does not load: the programs before it still block."""
    device = make_device()
    device.probes.close()
    with pytest.raises(LibbpfError):
        Probes.load(tmp_path, device.cgroup, LEVEL, True, device.pins)
    assert device.run(Role.TRAINER, may_make_a_socket) is False


def test_addresses(device: Device) -> None:
    """Names and nonsense are refused; only roles that send can be allowed."""
    for address in ("", "localhost", "127.0.0.1:80", "fe80::1%lo"):
        with pytest.raises(ProbeError):
            device.probes.allow(Role.GATEWAY, address, 80)
    with pytest.raises(InternalError):
        device.probes.allow(Role.TRAINER, "127.0.0.1", 80)
    device.probes.revoke(Role.GATEWAY, "127.0.0.1", 80)  # never allowed: nothing happens
    with pytest.raises(InternalError):
        device.probes.map_fd("none")


def test_facts_of_this_kernel() -> None:
    """Each is found by trying; what they say agrees with what the other tests here rely on."""
    assert features.bpf_programs().present
    assert features.seccomp().present
    assert features.cgroup2_mounts()
    assert features.kernel_release() == os.uname().release

    def stranger() -> Any:
        os.setresuid(60601, 60601, 60601)
        return features.bpf_programs().present, features.seccomp().present

    assert in_child(stranger) == [False, True]

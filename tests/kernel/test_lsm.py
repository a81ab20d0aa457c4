# SPDX-License-Identifier: Apache-2.0
"""Programs on security hooks: each hook refuses a role 23 times of 23 and lets everybody else through.

Skipped where the kernel has no BPF LSM; tests/system/vm/test_lsm.py runs this file on kernels that have it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Event, Kind, Program, Role, Rule
from homebound.kernel import bpf, cgroups, lsm, maps
from homebound.kernel.lsm import Area
from homebound.leaktest.device import device as leaktest_device
from homebound.rooms import areas, canary, launch, roles
from kernel.conftest import How, load_device, role_cgroups
from kernel.rig import Device, in_child, in_fresh_network, look_at_child
from kernel.test_syscalls import LIBC, SHOTS, become_stranger, call, shots

pytestmark = pytest.mark.root

HELD = (Role.WATCHER, Role.TRAINER, Role.GUARD, Role.GATEWAY, Role.CANARY)
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
NOBODY = "\0homebound-test-nobody"
READ, WRITE = os.O_RDONLY, os.O_WRONLY


@contextmanager
def standing(objects: Path, bpf_file_system: Path, kept: Path, enforce: bool) -> Iterator[Device]:
    """A device on whose hooks all programs are, with the host's memory told; skipped where it cannot be."""
    if reason := lsm.lacking():
        pytest.skip(reason)
    name = f"homebound-lsm-{os.getpid()}-{int(enforce)}"
    with role_cgroups(name) as cgroup:
        how = How(loader="libbpf", compiled=kept)
        made = load_device(objects, cgroup, bpf_file_system / name, enforce, how)
        try:
            assert [state for state in areas.states(made.probes) if not state.attached] == []
            areas.tell_host(made.probes, own_cgroup())
            yield made
        finally:
            made.stream.close()
            made.probes.remove()


@pytest.fixture(scope="module")
def enforcing(objects: Path, bpf_file_system: Path, kept: Path) -> Iterator[Device]:
    """One for all tests of this file."""
    with standing(objects, bpf_file_system, kept, True) as made:
        yield made


@pytest.fixture
def hooked(enforcing: Device) -> Device:
    """The same, counting from now."""
    enforcing.events()
    return replace(enforcing, before=enforcing.denied())


def refusals(device: Device) -> list[Event]:
    """What was told of them since the last call; processes come and go besides."""
    return [event for event in device.events() if event.kind is Kind.DENIED]


def own_cgroup() -> int:
    return (cgroups.mount() / cgroups.own().lstrip("/")).stat().st_ino


def result_of(attempt: Callable[[], object]) -> int:
    """0, or minus errno."""
    try:
        attempt()
    except OSError as error:
        return -(error.errno or errno.EIO)
    return 0


def opening(path: object, flags: int) -> Callable[[], int]:
    return lambda: result_of(lambda: os.close(os.open(str(path), flags)))


def userns() -> int:
    """In a child, since whoever gets one stays in it."""
    pid = os.fork()
    if pid == 0:
        os._exit(ctypes.get_errno() if LIBC.unshare(CLONE_NEWUSER) else 0)
    return -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dataclass(frozen=True)
class Attempt:
    """What a role is refused; ``code``: with which error."""

    rule: Rule
    shoot: Callable[[], int]
    code: int = errno.EPERM
    stranger: bool = False


def trial(name: str) -> Callable[[], int]:
    """One of the canary's own."""
    return lambda: result_of(canary.LSM[name])


ATTEMPTS = {
    "vsock": Attempt(Rule.LSM_SOCKET, lambda: min(call("socket", socket.AF_VSOCK, socket.SOCK_STREAM, 0), 0)),
    "packet": Attempt(Rule.LSM_SOCKET, lambda: min(call("socket", socket.AF_PACKET, socket.SOCK_RAW, 0), 0)),
    "unix": Attempt(
        Rule.LSM_SOCKET, lambda: min(call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0), 0), stranger=True
    ),
    "netlink route": Attempt(
        Rule.LSM_SOCKET, lambda: min(call("socket", socket.AF_NETLINK, socket.SOCK_RAW, 0), 0), stranger=True
    ),
    "netlink generic": Attempt(Rule.LSM_SOCKET, trial("lsm_socket")),
    "connect": Attempt(Rule.LSM_CONNECT, trial("lsm_connect")),
    "send": Attempt(Rule.LSM_SEND, trial("lsm_send")),
    "open in proc": Attempt(Rule.LSM_OPEN, trial("lsm_open")),
    "open a device": Attempt(Rule.LSM_OPEN, opening("/dev/kmsg", READ)),
    "open a disk's file": Attempt(Rule.LSM_OPEN, opening("/etc/hosts", WRITE)),
    "open the host's memory": Attempt(Rule.LSM_OPEN, opening("/dev/shm/homebound-test", WRITE)),
    "receive": Attempt(Rule.LSM_RECEIVE, trial("lsm_receive")),
    "memory of a child": Attempt(Rule.LSM_TRACE, trial("lsm_trace"), errno.EACCES),
    "namespaces of a child": Attempt(
        Rule.LSM_TRACE, lambda: result_of(look_at_child), errno.EACCES, stranger=True
    ),
    "bpf": Attempt(Rule.LSM_BPF, trial("lsm_bpf")),
    "user namespace": Attempt(Rule.LSM_USERNS, userns, stranger=True),
    "key": Attempt(Rule.LSM_KEY, trial("lsm_key")),
}  # fmt: skip


@pytest.fixture
def shared_file() -> Iterator[Path]:
    """A file in the host's /dev/shm."""
    path = Path("/dev/shm/homebound-test")
    path.touch(0o666)
    yield path
    path.unlink()


@pytest.mark.usefixtures("shared_file")
@pytest.mark.parametrize("name", ATTEMPTS)
def test_refused_counted_told(hooked: Device, name: str) -> None:
    """Twenty-three of twenty-three by a role, once each; the same passes outside and for the supervisor."""
    attempt = ATTEMPTS[name]

    def shoot() -> int:
        if attempt.stranger:
            become_stranger()
        return shots(attempt.shoot, attempt.code)

    assert hooked.run(Role.TRAINER, shoot) == SHOTS
    wanted = {(Role.TRAINER, attempt.rule): SHOTS}
    assert hooked.denied() == wanted
    events = refusals(hooked)
    assert {(event.role, event.rule, event.result) for event in events} == {
        (Role.TRAINER, attempt.rule, -errno.EPERM)
    }
    assert len(events) == SHOTS
    assert in_child(shoot) == 0
    assert hooked.run(Role.SUPERVISOR, shoot) == 0
    assert hooked.denied() == wanted
    assert refusals(hooked) == []
    state = maps.read_program_state(hooked.probes.map_fd("program_state"))
    assert sum(counts.failed_lookups for counts in state.values()) == 0


@pytest.mark.parametrize("role", HELD)
def test_every_role_is_refused_what_it_lost(hooked: Device, role: Role) -> None:
    """The canary's own trials, in each role; none of them is refused without a count."""
    found = hooked.run(role, lambda: canary.attempt(canary.LSM))
    assert {name: error for name, error in found.items() if error not in canary.LSM_ERRORS[name]} == {}
    assert set(found) == {program.label for program in lsm.PROGRAMS}
    assert hooked.denied() == hooked.told() == {(role, Rule[name.upper()]): 1 for name in found}


@pytest.mark.parametrize("role", HELD)
def test_what_starts_a_role_looks_at_its_child_in_vain(hooked: Device, role: Role) -> None:
    """bubblewrap is root then, and reads the numbers of its child's namespaces: refused, but no attempt."""
    assert hooked.run(role, lambda: result_of(look_at_child)) == -errno.EACCES
    assert hooked.denied() == hooked.told() == {}


def test_observing_counts_and_lets_pass(objects: Path, bpf_file_system: Path, kept: Path) -> None:
    with standing(objects, bpf_file_system, kept, False) as device:
        found = device.run(Role.TRAINER, lambda: canary.attempt(canary.LSM))
        assert set(found.values()) == {0}
        assert device.denied() == {(Role.TRAINER, Rule[name.upper()]): 1 for name in found}


def test_another_device_is_not_asked_for(hooked: Device) -> None:
    """A task below the root whose cgroup has no role, and one beside it, lose nothing here."""
    assert set(hooked.run(Role.NONE, lambda: canary.attempt(canary.LSM)).values()) == {0}
    assert hooked.denied() == {}


ALLOWED: dict[str, Callable[[], int]] = {
    "a pair": lambda: result_of(socket.socketpair),
    "null": opening("/dev/null", os.O_RDWR),
    "random": opening("/dev/urandom", READ),
    "to read": opening("/etc/hosts", READ),
    "to read a folder": opening("/", READ),
    "own process": opening("/proc/self/status", READ),
    "own memory": opening("/proc/self/mem", READ),
}


def own_memory_files() -> int:
    """A memory file, opened anew, and a pipe without a name."""
    fd = os.memfd_create("test")
    reading, writing = os.pipe()
    try:
        found = opening(f"/proc/self/fd/{fd}", os.O_RDWR)() or opening(f"/proc/self/fd/{writing}", WRITE)()
    finally:
        for each in (fd, reading, writing):
            os.close(each)
    return found


def talk_over_a_pair() -> int:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"x" * 4096)
        return 0 if len(other.recv(4096)) == 4096 else -errno.EIO


def fresh_memory() -> int:
    """A memory file system that was mounted for this role alone, as its scratch is."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if LIBC.unshare(CLONE_NEWNS) or LIBC.mount(b"none", b"/", None, 0x44000, None):
            return -ctypes.get_errno()
        if LIBC.mount(b"none", folder.encode(), b"tmpfs", 0, None):
            return -ctypes.get_errno()
        found = opening(folder + "/file", WRITE | os.O_CREAT)()
        LIBC.umount2(folder.encode(), 0)
        return found


@pytest.mark.parametrize("role", HELD)
def test_what_a_role_needs_it_keeps(hooked: Device, role: Role) -> None:
    needs = {**ALLOWED, "memory": own_memory_files, "talk": talk_over_a_pair}

    def work() -> dict[str, int]:
        return {name: need() for name, need in needs.items()}

    assert {name: error for name, error in hooked.run(role, work).items() if error} == {}
    assert hooked.run(role, fresh_memory) in (0, -errno.ENOENT)
    assert hooked.denied() == {}


def hand_over(kind: str) -> int:
    one, other = socket.socketpair()
    with one, other, open("/dev/null", "rb") as file:
        given = one.fileno() if kind == "socket" else file.fileno()
        socket.send_fds(one, [b"x"], [given])
        fds = socket.recv_fds(other, 1, 1)[1]
    for fd in fds:
        os.close(fd)
    return len(fds)


@pytest.mark.parametrize("role", HELD)
def test_only_the_guard_is_given_links(hooked: Device, role: Role) -> None:
    """It gets a new one when the trainer starts again; files nobody gets."""
    assert hooked.run(role, lambda: [hand_over("socket"), hand_over("file")]) == [int(role is Role.GUARD), 0]
    assert hooked.denied() == {(role, Rule.LSM_RECEIVE): 1 if role is Role.GUARD else 2}


@pytest.mark.parametrize("role", HELD)
def test_only_the_watcher_reads_maps(hooked: Device, role: Role) -> None:
    fd = hooked.probes.map_fd("denied")
    code = hooked.run(role, lambda: result_of(lambda: bpf.map_info(fd)))
    assert code == (0 if role is Role.WATCHER else -errno.EPERM)
    assert hooked.denied() == ({} if role is Role.WATCHER else {(role, Rule.LSM_BPF): 1})


def test_the_gateway_connects_where_it_may(hooked: Device) -> None:
    """TCP to the allowed port passes both hooks, to another port it does not; no other role connects."""
    device = hooked

    def play() -> Any:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_server(("127.0.0.1", 0)) as other,
        ):
            port, closed = server.getsockname()[1], other.getsockname()[1]
            device.probes.allow(Role.GATEWAY, "127.0.0.1", port)

            def talk() -> list[int]:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
                    link.sendall(b"hello")
                return [result_of(lambda: socket.create_connection(("127.0.0.1", closed), timeout=1))]

            return in_child(talk, device.of(Role.GATEWAY))

    assert in_fresh_network(play) == [-errno.EPERM]
    assert device.denied() == {(Role.GATEWAY, Rule.LSM_CONNECT): 1}
    (event,) = refusals(device)
    assert event.address == "127.0.0.1"


READERS = {
    Area.DATA: {Role.TRAINER},
    Area.GUARD: {Role.GUARD},
    Area.GATEWAY: {Role.GATEWAY},
    Area.CREDENTIALS: {Role.GATEWAY},
    Area.HOST: set(HELD),
}
WRITERS = {Area.GUARD: {Role.GUARD}, Area.GATEWAY: {Role.GATEWAY}}


@pytest.mark.parametrize("area", READERS)
def test_areas(hooked: Device, area: Area) -> None:
    """By the nearest folder that was told, however deep the file lies and by whatever path it is opened."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        deep = Path(folder, "a/b/c")
        deep.mkdir(parents=True)
        (deep / "file").write_text("secret")
        (Path(folder, "link")).symlink_to(deep / "file")
        lesson = hooked.probes.map_fd("lesson")
        assert lsm.tell(lesson, own_cgroup(), Path(folder), area)

        def attempt() -> list[int]:
            paths = (deep / "file", Path(folder, "link"))
            return [opening(path, flags)() for flags in (READ, WRITE) for path in paths]

        for role in HELD:
            read = 0 if role in READERS[area] else -errno.EPERM
            write = 0 if role in WRITERS.get(area, set()) else -errno.EPERM
            assert hooked.run(role, attempt) == [read, read, write, write], role
        assert in_child(attempt) == [0, 0, 0, 0]
    events = refusals(hooked)
    assert {event.detail & 0xFFFFFFFF for event in events} == {area}
    assert {event.program for event in events} == {Program.LSM_OPEN}


def test_a_pipe_with_a_name_is_not_written(hooked: Device) -> None:
    """A read-only mount does not keep a FIFO from being written."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = Path(folder, "fifo")
        os.mkfifo(path)
        code = hooked.run(Role.TRAINER, opening(path, os.O_RDWR))
        assert code == -errno.EPERM
        assert in_child(opening(path, os.O_RDWR)) == 0


def test_a_folder_that_was_not_opened_is_not_told(hooked: Device) -> None:
    """Somebody else's cgroup: the program saw no opening by it."""
    assert not lsm.tell(hooked.probes.map_fd("lesson"), 1 << 60, Path("/etc"), Area.DATA)


def test_a_refused_call_is_counted_once(hooked: Device) -> None:
    """The mark of one call does not hide another's refusal by somebody else, nor a later one of the same."""

    def attempt() -> int:
        become_stranger()
        with suppress(PermissionError):
            socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        return call("bpf", bpf.MAP_CREATE, struct.pack("4I112x", 2, 4, 4, 1), 128)

    assert hooked.run(Role.TRAINER, attempt) == -errno.EPERM
    found = hooked.denied()
    assert found.pop((Role.TRAINER, Rule.LSM_SOCKET)) == 1
    assert sum(found.values()) == 1


def test_the_sandbox_starts_and_every_trial_is_refused() -> None:
    """bubblewrap, setpriv and the role's Python find what they need behind the hooks."""
    if reason := lsm.lacking():
        pytest.skip(reason)
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    with leaktest_device(60600) as made:
        hooks = [program.label for program in lsm.PROGRAMS]
        trials = launch.try_walls(made.instance, roles.canary(made.user), hooks=hooks)
    assert [(trial.name, trial.error) for trial in trials if not trial.held] == []
    assert {trial.name for trial in trials} >= {*hooks, "tcp", "bpf_tcp4", "write_beside"}


def test_a_program_that_is_taken_off(hooked: Device) -> None:
    """Last in this file: the device is without it then."""
    hooked.probes.drop(Program.LSM_OPEN, "by a test")
    (state,) = (state for state in areas.states(hooked.probes) if not state.attached)
    assert (state.name, state.reason, state.need) == ("hb_lsm_open", "by a test", "wanted")

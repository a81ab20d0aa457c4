# SPDX-License-Identifier: Apache-2.0
"""System calls of a role that came back refused: 23 are counted and told 23 times, under the right rule.

Positive controls: the same call outside of the device, by the supervisor, or when it succeeds,
counts nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Kind, Role, Rule, Shape
from homebound.kernel import bpf, maps, syscalls
from kernel.rig import Device, in_child

pytestmark = pytest.mark.root

SHOTS = 23
STRANGER = 60601
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
CLONE_NEWNET, CLONE_FILES = 0x40000000, 0x400
PTRACE_ATTACH, KEYCTL_GET_KEYRING_ID, SIGCHLD = 16, 0, 17
WATCHED = (Role.WATCHER, Role.TRAINER, Role.GUARD, Role.GATEWAY, Role.CANARY)

LIBC = ctypes.CDLL(None, use_errno=True)
SECCOMP = ctypes.CDLL("libseccomp.so.2")


def number(name: str) -> int:
    found: int = SECCOMP.seccomp_syscall_resolve_name(name.encode())
    return found


def call(name: str, *arguments: int | bytes | None) -> int:
    """One raw system call: 0 or more, or minus errno."""
    values = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = LIBC.syscall(ctypes.c_long(number(name)), *values)
    return -ctypes.get_errno() if result == -1 else result


def refuse(*names: str, code: int = errno.EPERM) -> None:
    """Load a seccomp filter that answers these calls with an error and allows the others."""
    instructions = [struct.pack("HBBI", LOAD_WORD, 0, 0, 0)]
    for name in names:
        instructions.append(struct.pack("HBBI", JUMP_EQUAL, 0, 1, number(name)))
        instructions.append(struct.pack("HBBI", RETURN, 0, 0, SECCOMP_RET_ERRNO | code))
    instructions.append(struct.pack("HBBI", RETURN, 0, 0, SECCOMP_RET_ALLOW))
    code_bytes = ctypes.create_string_buffer(b"".join(instructions))
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code_bytes))
    )
    assert LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0


def become_stranger() -> None:
    """An ordinary user without any capability."""
    os.setgroups([])
    os.setresgid(STRANGER, STRANGER, STRANGER)
    os.setresuid(STRANGER, STRANGER, STRANGER)


def shots(attempt: Callable[[], int], code: int) -> int:
    """How many of 23 attempts fail with that error."""
    return sum(attempt() == -code for _ in range(SHOTS))


SOCKETS = {
    "stream4": (socket.AF_INET, socket.SOCK_STREAM, 0, Rule.SOCKET_STREAM),
    "stream6": (socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0, Rule.SOCKET_STREAM),
    "datagram4": (socket.AF_INET, socket.SOCK_DGRAM, 0, Rule.SOCKET_DATAGRAM),
    "datagram6": (socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0, Rule.SOCKET_DATAGRAM),
    "raw": (socket.AF_INET, socket.SOCK_RAW, 1, Rule.SOCKET_RAW),
    "seqpacket": (socket.AF_INET, socket.SOCK_SEQPACKET, 132, Rule.SOCKET_OTHER),
    "packet": (socket.AF_PACKET, socket.SOCK_RAW, 768, Rule.SOCKET_PACKET),
    "vsock": (socket.AF_VSOCK, socket.SOCK_STREAM, 0, Rule.SOCKET_VSOCK),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0, Rule.SOCKET_UNIX),
    "netlink": (socket.AF_NETLINK, socket.SOCK_RAW, 0, Rule.SOCKET_NETLINK),
    "alg": (socket.AF_ALG, socket.SOCK_SEQPACKET, 0, Rule.SOCKET_OTHER),
}


@pytest.mark.parametrize("kind", SOCKETS)
def test_sockets_refused_by_seccomp(device: Device, kind: str) -> None:
    """Every family and type has its rule. vsock and its like are made at most, never connected."""
    family, type_, protocol, rule = SOCKETS[kind]

    def shoot() -> int:
        refuse("socket")
        become_stranger()
        return shots(lambda: call("socket", family, type_, protocol), errno.EPERM)

    assert device.run(Role.TRAINER, shoot) == SHOTS
    assert device.denied() == {(Role.TRAINER, rule): SHOTS}
    events = device.events()
    assert len(events) == SHOTS
    assert {(e.rule, e.family, e.protocol, e.syscall, e.result, e.detail) for e in events} == {
        (rule, family, protocol & 255, number("socket"), -errno.EPERM, type_ | protocol << 32)
    }
    assert in_child(shoot) == SHOTS  # outside of the device: the same refusals
    assert device.denied() == {(Role.TRAINER, rule): SHOTS}
    assert device.events() == []


@pytest.mark.parametrize("role", Role)
def test_who_is_watched(device: Device, role: Role) -> None:
    """The five roles that are held, and neither the supervisor nor anybody who is in no role."""

    def shoot() -> int:
        refuse("socket", "socketpair")
        become_stranger()
        return shots(lambda: call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, bytes(8)), errno.EPERM)

    assert device.run(role, shoot) == SHOTS
    wanted = {(role, Rule.SOCKET_UNIX): SHOTS} if role in WATCHED else {}
    assert device.denied() == device.told() == wanted


def test_the_launcher_that_asks_for_names_is_no_violation(device: Device) -> None:
    """Root, as setpriv still is, may be refused a unix socket uncounted; no other family, and nobody else."""

    def shoot() -> int:
        refuse("socket")
        unix = shots(lambda: call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0), errno.EPERM)
        return unix + shots(lambda: call("socket", socket.AF_VSOCK, socket.SOCK_STREAM, 0), errno.EPERM)

    assert device.run(Role.TRAINER, shoot) == 2 * SHOTS
    assert device.denied() == {(Role.TRAINER, Rule.SOCKET_VSOCK): SHOTS}


@dataclass(frozen=True)
class Attempt:
    """A call that an ordinary user is refused by the kernel itself, or that ``refuse`` names."""

    rule: Rule | None
    code: int
    name: str
    arguments: tuple[int | bytes | None, ...]
    detail: int | None = None
    refuse: bool = False


AT_FDCWD = -100
NO_FOLDER, LOCKED, THERE = b"/no/such/folder/x", b"/etc/homebound-test", b"/etc/debian_version"
WRITE, READ, CREATE, TRUNCATE = os.O_WRONLY, os.O_RDONLY, os.O_CREAT, os.O_TRUNC
HOW_CREATE = struct.pack("QQQ", CREATE | os.O_RDWR, 0o600, 0)
HOW_READ = struct.pack("QQQ", READ, 0, 0)
NEW_MAP = struct.pack("4I112x", bpf.MAP_TYPE_ARRAY, 4, 4, 1)
NEW_NETWORK = struct.pack("8Q", CLONE_NEWNET, 0, 0, 0, SIGCHLD, 0, 0, 0)
FILE, NAMESPACE = Rule.FILE_OUTSIDE, Rule.NAMESPACE

ATTEMPTS = {
    "open to write": Attempt(FILE, errno.EACCES, "open", (THERE, WRITE), WRITE),
    "open to truncate": Attempt(FILE, errno.EACCES, "open", (THERE, WRITE | TRUNCATE)),
    "open to read": Attempt(None, errno.EACCES, "open", (b"/etc/shadow", READ)),
    "open nothing": Attempt(None, errno.ENOENT, "open", (NO_FOLDER, WRITE)),
    "openat to create": Attempt(FILE, errno.EACCES, "openat", (AT_FDCWD, LOCKED, WRITE | CREATE, 0o600)),
    "openat outside": Attempt(FILE, errno.ENOENT, "openat", (AT_FDCWD, NO_FOLDER, CREATE, 0o600), CREATE),
    "openat to read": Attempt(None, errno.ENOENT, "openat", (AT_FDCWD, NO_FOLDER, READ)),
    "openat2 to create": Attempt(
        FILE, errno.EACCES, "openat2", (AT_FDCWD, LOCKED, HOW_CREATE, len(HOW_CREATE)), CREATE | os.O_RDWR
    ),
    "openat2 to read": Attempt(None, errno.ENOENT, "openat2", (AT_FDCWD, NO_FOLDER, HOW_READ, len(HOW_READ))),
    "openat2 by seccomp": Attempt(
        FILE, errno.EPERM, "openat2", (AT_FDCWD, LOCKED, HOW_CREATE, len(HOW_CREATE)), refuse=True
    ),
    "read-only file system": Attempt(FILE, errno.EROFS, "openat", (AT_FDCWD, b"/x", WRITE), refuse=True),
    "creat": Attempt(FILE, errno.EACCES, "creat", (LOCKED, 0o600)),
    "creat outside": Attempt(FILE, errno.ENOENT, "creat", (NO_FOLDER, 0o600)),
    "mkdir": Attempt(FILE, errno.EACCES, "mkdir", (LOCKED, 0o700)),
    "mkdir outside": Attempt(None, errno.ENOENT, "mkdir", (NO_FOLDER, 0o700)),
    "rename": Attempt(FILE, errno.EACCES, "rename", (THERE, LOCKED)),
    "link": Attempt(FILE, errno.EPERM, "link", (THERE, b"/tmp/homebound-test"), refuse=True),
    "symlink": Attempt(FILE, errno.EACCES, "symlink", (THERE, LOCKED)),
    "unlink": Attempt(FILE, errno.EACCES, "unlink", (THERE,)),
    "write to no descriptor": Attempt(Rule.FOREIGN_FD, errno.EBADF, "write", (999, b"x", 1), 999),
    "send to no descriptor": Attempt(Rule.FOREIGN_FD, errno.EBADF, "sendto", (999, b"x", 1, 0, None, 0), 999),
    "read from no descriptor": Attempt(None, errno.EBADF, "read", (999, bytes(8), 1)),
    "unshare": Attempt(NAMESPACE, errno.EPERM, "unshare", (CLONE_NEWNET,), CLONE_NEWNET),
    "setns": Attempt(NAMESPACE, errno.EPERM, "setns", (0, 0), refuse=True),
    "mount": Attempt(NAMESPACE, errno.EPERM, "mount", (b"none", b"/mnt", b"tmpfs", 0, None)),
    "chroot": Attempt(NAMESPACE, errno.EPERM, "chroot", (b"/",)),
    "clone into a namespace": Attempt(
        NAMESPACE, errno.EPERM, "clone", (CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0), CLONE_NEWNET | SIGCHLD
    ),
    "clone by seccomp": Attempt(None, errno.EPERM, "clone", (SIGCHLD, 0, 0, 0, 0), refuse=True),
    "clone3 into a namespace": Attempt(
        NAMESPACE, errno.EPERM, "clone3", (NEW_NETWORK, len(NEW_NETWORK)), CLONE_NEWNET
    ),
    "clone3 as glibc tries it": Attempt(
        None, errno.ENOSYS, "clone3", (NEW_NETWORK, len(NEW_NETWORK)), refuse=True
    ),
    "ptrace": Attempt(Rule.TRACE, errno.EPERM, "ptrace", (PTRACE_ATTACH, 1, 0, 0), PTRACE_ATTACH),
    "pidfd_getfd": Attempt(Rule.TRACE, errno.EPERM, "pidfd_getfd", (0, 0, 0), refuse=True),
    "io_uring_setup": Attempt(Rule.IO_URING, errno.EPERM, "io_uring_setup", (8, bytes(120)), refuse=True),
    "io_uring_enter": Attempt(Rule.IO_URING, errno.EPERM, "io_uring_enter", (0, 1, 0, 0), refuse=True),
    "bpf": Attempt(Rule.KERNEL, errno.EPERM, "bpf", (bpf.MAP_CREATE, NEW_MAP, len(NEW_MAP))),
    "keyctl": Attempt(Rule.KERNEL, errno.EPERM, "keyctl", (KEYCTL_GET_KEYRING_ID, 0, 0), refuse=True),
    "reboot": Attempt(Rule.KERNEL, errno.EPERM, "reboot", (0, 0, 0, None)),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTEMPTS)
def test_refused_calls(device: Device, name: str) -> None:
    """By an ordinary user who is refused by the kernel, or by seccomp where ``refuse`` says so."""
    attempt = ATTEMPTS[name]
    if number(attempt.name) < 0:
        pytest.skip(f"this architecture has no {attempt.name}")

    def shoot() -> int:
        become_stranger()
        if attempt.refuse:
            refuse(attempt.name, code=attempt.code)
        return shots(lambda: call(attempt.name, *attempt.arguments), attempt.code)

    assert device.run(Role.CANARY, shoot) == SHOTS
    wanted = {(Role.CANARY, attempt.rule): SHOTS} if attempt.rule else {}
    assert device.denied() == wanted
    events = device.events()
    assert len(events) == SHOTS * len(wanted)
    assert {(e.syscall, e.result) for e in events} <= {(number(attempt.name), -attempt.code)}
    if attempt.detail is not None:
        assert {event.detail for event in events} == {attempt.detail}
    assert in_child(shoot) == SHOTS
    assert device.denied() == wanted


def test_what_succeeds_counts_nothing(device: Device) -> None:
    """Sockets, files, threads and children of an unrestricted role: no refusal, no count."""

    def work() -> str:
        near, far = socket.socketpair()
        near.send(b"x")
        path = Path("/tmp") / f"homebound-test-{os.getpid()}"
        path.write_text("x")
        path.rename(path.with_suffix(".new"))
        path.with_suffix(".new").unlink()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return far.recv(1).decode()

    assert device.run(Role.TRAINER, work) == "x"
    assert device.denied() == device.told() == {}


def test_refusals_of_both_walls(device: Device) -> None:
    """Each refusal is counted by the wall that refused it: first ours, then seccomp's, never both."""

    def shoot() -> int:
        ours = shots(lambda: call("socket", socket.AF_INET, socket.SOCK_STREAM, 0), errno.EPERM)
        refuse("socket")
        return ours + shots(lambda: call("socket", socket.AF_INET, socket.SOCK_STREAM, 0), errno.EPERM)

    assert device.run(Role.GUARD, shoot) == 2 * SHOTS
    wanted = {(Role.GUARD, Rule.SOCK_CREATE): SHOTS, (Role.GUARD, Rule.SOCKET_STREAM): SHOTS}
    assert device.denied() == device.told() == wanted


def test_threads_are_told_apart(device: Device) -> None:
    """pid is the process, tid the thread, as user space calls them."""

    def shoot() -> Any:
        import threading

        refuse("socket")
        become_stranger()
        seen: list[int] = []

        def one() -> None:
            seen.append(threading.get_native_id())
            call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)

        thread = threading.Thread(target=one)
        thread.start()
        thread.join()
        return [os.getpid(), *seen]

    pid, tid = device.run(Role.TRAINER, shoot)
    (event,) = [event for event in device.events() if event.kind is Kind.DENIED]
    assert (event.pid, event.tid) == (pid, tid)
    assert pid != tid


def test_table() -> None:
    """Every name is a call that some architecture has, fits the map, and comes once; every rule is used."""
    names = [name for text in syscalls.LISTS.values() for name in text.split()]
    assert len(names) == len(set(names))
    assert all(number(name) != -1 for name in names)  # __NR_SCMP_ERROR
    table = syscalls.numbers()
    assert 80 < len(table) <= len(names) + len(syscalls.BY_INTERRUPT.get(os.uname().machine, ()))
    assert max(table) < 512
    rules = {rule for rule, _ in table.values()}
    assert rules == {rule for rule in Rule if Rule.SOCKET_OTHER <= rule < Rule.CGROUP}
    assert {shape for _, shape in table.values()} == set(Shape) - {Shape.CANARY}


@pytest.mark.parametrize("role", [Role.WATCHER, Role.TRAINER, Role.GATEWAY])
def test_the_event_that_the_watcher_asks_for(device: Device, role: Role) -> None:
    """23 questions of the watcher are 23 events and no refusal; those of others are none."""

    def shoot() -> int:
        for _ in range(SHOTS):
            maps.ask_for_event()
        return shots(lambda: call("close", 999), errno.EBADF)

    assert device.run(role, shoot) == SHOTS
    told = [event for event in device.activity() if event.kind is Kind.CANARY]
    assert {(event.role, event.rule) for event in told} <= {(Role.WATCHER, None)}
    assert len(told) == (SHOTS if role is Role.WATCHER else 0)
    assert device.denied() == {}

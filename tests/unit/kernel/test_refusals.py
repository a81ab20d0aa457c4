# SPDX-License-Identifier: Apache-2.0
"""The second filter: its numbers are libseccomp's, and each rule does in the kernel what it says."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable

import pytest

from homebound.kernel import refusals, seccomp
from homebound.rooms import canary

X32, I386 = 0x40000000, 20


@pytest.mark.parametrize("name", refusals.MACHINES)
def test_numbers_are_libseccomps(name: str) -> None:
    machine = refusals.MACHINES[name]
    library = ctypes.CDLL(seccomp.LIBRARY)
    resolve = library.seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    for call, number in machine.numbers.items():
        assert resolve(machine.audit, call.encode()) == number, call


def test_what_stands_twice_is_the_same() -> None:
    assert refusals.CLONE_NEW_ANY == seccomp.CLONE_NEW_ANY
    assert refusals.TRIAL_KIND == canary.NO_SUCH_KIND
    for name, machine in refusals.MACHINES.items():
        assert canary.SYS_GETPRIORITY[name] == machine.numbers["getpriority"]
    assert {profile.value for profile in seccomp.Profile} == {"sealed", "gateway", "watcher"}


def test_nothing_on_the_first_list_is_refused_here() -> None:
    """But for the calls that have rules of their own there, too."""
    allowed = {*seccomp.FILES, *seccomp.PROCESS, *seccomp.WAITING, *seccomp.LINKS}
    refused = set(next(iter(refusals.MACHINES.values())).numbers)
    assert refused & allowed == {"getpriority"}


def in_child(kind: str, ask: Callable[[], int]) -> int:
    """What ``ask`` returns in a child behind the filter."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            assert refusals.load(kind)
            status = ask()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def error_of(function: Callable[[], object]) -> Callable[[], int]:
    def ask() -> int:
        try:
            function()
        except OSError as error:
            return error.errno or 254
        return 0

    return ask


def call(name: str, *arguments: int, extra: int = 0) -> Callable[[], object]:
    def ask() -> object:
        number = refusals.MACHINES[os.uname().machine].numbers[name] + extra
        result = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), name)
        return result

    return ask


@pytest.mark.skipif(os.uname().machine not in refusals.MACHINES, reason="no numbers for this machine")
@pytest.mark.parametrize(
    ("kind", "function", "expected"),
    [
        ("sealed", call("keyctl", 0, -3, 0), errno.EPERM),
        ("sealed", call("io_uring_setup", 1, 0), errno.EPERM),
        ("sealed", call("unshare", 0x10000000), errno.EPERM),
        ("sealed", call("unshare", 0), errno.EPERM),
        ("sealed", call("clone", 0x10000000, 0), errno.EPERM),
        ("sealed", call("clone3", 0, 0), errno.ENOSYS),
        ("sealed", call("bpf", 0, 0, 0), errno.EPERM),
        ("watcher", call("bpf", 99, 0, 0), errno.EINVAL),
        ("sealed", call("getpriority", 0x7FFF, 0), errno.EPERM),
        ("sealed", call("getpriority", 0, 0), 0),
        ("sealed", lambda: socket.socketpair()[0].close(), 0),
        ("sealed", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), errno.EPERM),
        ("gateway", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(), 0),
        ("gateway", lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close(), 0),
        ("gateway", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), errno.EPERM),
        ("gateway", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), errno.EPERM),
        ("watcher", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), errno.EPERM),
        ("sealed", lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0), 0),
        ("sealed", lambda: sys.stdout.flush(), 0),
    ],
)
def test_each_rule_does_what_it_says(kind: str, function: Callable[[], object], expected: int) -> None:
    if expected in (errno.EINVAL,) and os.geteuid() != 0:
        expected = errno.EPERM  # the kernel's own word to one without the right
    assert in_child(kind, error_of(function)) == expected


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is x86_64's")
def test_numbers_of_another_mode_are_refused() -> None:
    assert in_child("sealed", error_of(call("getpriority", 0, 0, extra=X32))) == errno.EPERM

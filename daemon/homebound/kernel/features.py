# SPDX-License-Identifier: Apache-2.0
"""Facts about this kernel, each found by trying or reading, none by version. No decision is made here.

What can only be tried for good (seccomp, Landlock) is tried in a child that then ends.
May import: kernel.bpf, kernel.landlock. Source: the manual page named at each function.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from homebound.kernel import bpf, landlock

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
# getppid: always succeeds, so an error can only be the filter's. x86 syscall_64.tbl, asm-generic/unistd.h
GETPPID = {"x86_64": 110, "aarch64": 173}
# Classic BPF: load a word at an offset, jump if equal, return a constant. linux/bpf_common.h
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
BTF_MAGIC = 0xEB9F
# What the child of a trial ends with.
HOLDS, DOES_NOT_HOLD, NOT_THERE = 0, 1, 2


@dataclass(frozen=True)
class Fact:
    """Whether something is there, and what was seen (one line; why not, when it is not)."""

    present: bool
    detail: str


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def kernel_release() -> str:
    """As ``uname -r`` shows it."""
    return os.uname().release


def cgroup2_mounts(proc: Path = Path("/proc")) -> tuple[Path, ...]:
    """Where cgroup v2 is mounted; empty where it is not. proc_pid_mountinfo(5)"""
    found = []
    for line in (proc / "self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] == "cgroup2":
            found.append(Path(left.split(" ")[4].encode().decode("unicode_escape")))
    return tuple(found)


def btf(system: Path = Path("/sys")) -> Fact:
    """Whether the kernel describes its own types (CONFIG_DEBUG_INFO_BTF)."""
    path = system / "kernel/btf/vmlinux"
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except OSError as error:
        return Fact(False, f"{path}: {error.strerror}")
    good = BTF_MAGIC in (int.from_bytes(magic, "little"), int.from_bytes(magic, "big"))
    return Fact(good, f"{path} " + ("is there" if good else "is no BTF"))


def sched_info(proc: Path = Path("/proc")) -> Fact:
    """Whether the kernel counts how long a thread waits for a processor. proc_pid_schedstat(5)"""
    return _file(proc / "self/schedstat", "CONFIG_SCHED_INFO")


def task_io(proc: Path = Path("/proc")) -> Fact:
    """Whether the kernel counts a thread's bytes of block devices. proc_pid_io(5)"""
    return _file(proc / "self/io", "CONFIG_TASK_IO_ACCOUNTING")


def lsm(system: Path = Path("/sys")) -> tuple[str, ...] | None:
    """Active security modules in their order; None where securityfs is not mounted. lsm(7)"""
    try:
        return tuple((system / "kernel/security/lsm").read_text().strip().split(","))
    except OSError:
        return None


def bpf_programs() -> Fact:
    """Whether this process can make a map and load a program for cgroups. bpf(2)"""
    for what, attempt in (("a map", bpf.create_array), ("an egress program", bpf.load_pass_all)):
        try:
            os.close(attempt())
        except OSError as error:
            return Fact(False, f"{what} was refused: {os.strerror(error.errno or errno.EINVAL)}")
    return Fact(True, "made a map and loaded an egress program")


def landlock_abi() -> int:
    """The Landlock ABI, 0 where there is none or where a restriction did not hold. landlock(7)"""
    version = landlock.abi()
    return version if version and _in_child(_try_landlock) == HOLDS else 0


def seccomp() -> Fact:
    """Whether a filter is taken and refuses what it says. seccomp(2)"""
    if os.uname().machine not in GETPPID:
        return Fact(False, f"not known how to try it on {os.uname().machine}")
    seen = {
        HOLDS: "a filter was loaded and held",
        DOES_NOT_HOLD: "a filter was loaded and did not hold",
        NOT_THERE: "the kernel refused the filter",
    }
    status = _in_child(_try_seccomp)
    return Fact(status == HOLDS, seen.get(status, f"the trial ended with {status}"))


def _file(path: Path, option: str) -> Fact:
    there = path.exists()
    return Fact(there, f"{path} is there" if there else f"no {path}: this kernel was built without {option}")


def _try_landlock() -> int:
    if not landlock.restrict(landlock.Paths()):
        return NOT_THERE
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        return HOLDS
    return DOES_NOT_HOLD


def _try_seccomp() -> int:
    number = GETPPID[os.uname().machine]
    code = (_Instruction * 4)(
        _Instruction(LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
        _Instruction(JUMP_EQUAL, 0, 1, number),
        _Instruction(RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
        _Instruction(RETURN, 0, 0, SECCOMP_RET_ALLOW),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_Filter(len(code), code)), 0, 0):
        return NOT_THERE
    refused = libc.syscall(number) == -1 and ctypes.get_errno() == errno.EPERM
    return HOLDS if refused else DOES_NOT_HOLD


def _in_child(trial: Callable[[], int]) -> int:
    """The exit status of ``trial`` run in a child; what it restricts ends with it."""
    pid = os.fork()
    if pid == 0:
        status = NOT_THERE
        try:
            status = trial()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

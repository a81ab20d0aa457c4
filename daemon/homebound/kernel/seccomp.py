# SPDX-License-Identifier: Apache-2.0
"""Seccomp filters: an allow-list of system calls for each kind of role, compiled by libseccomp.

A call that is not on the list fails with EPERM, also one by another architecture (int 0x80, x32): to kill
would write name, address and number of the caller's choice into the audit log. io_uring is on no list: its
operations would pass every other call's filter. clone3 answers ENOSYS because its flags lie in memory where
a filter cannot look; glibc then uses clone. Reads nothing of the system. May import: errors. Source:
seccomp(2), seccomp_rule_add(3).
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from homebound.errors import HomeboundError

LIBRARY = "libseccomp.so.2"
ACT_ALLOW = 0x7FFF0000
ATTR_BAD_ARCH = 2
COMPARE_EQ, COMPARE_MASKED = 4, 7

# CLONE_NEW*: a role may start threads and children, never a namespace (sched.h).
CLONE_NEW_ANY = 0x7E020080
# What Python asks of a descriptor; all else (TIOCSTI, GPU, block devices) is refused. asm-generic/ioctls.h
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# How much of a TCP socket's queue was never sent: the gateway's byte accounts. linux/sockios.h
SIOCOUTQNSD = 0x894B
# prctl(2) by option, linux/prctl.h. Missing on purpose: 4 (to be dumpable again), 35 (the memory map), 59
# (system calls seen by nobody), 0x59616d61 (who may trace).
PRCTLS = tuple(
    map(
        int,
        """1 2 3 7 8 15 16 21 22 23 24 25 26 27 28 29 30 31 32 33 34 36 37 38 39 40 41 42 45 46 47 50 51 52 53
        54 55 56 60 61 63 64 65 66 67 68 69 70 71 72 73 1398164801""".split(),  # the last: PR_SET_VMA
    )
)
PR_SET_DUMPABLE = 4
# What setrlimit(2) may change: all but the size of core dumps, where 0 would open the way to a program.
RLIMIT_CORE, RLIMITS = 4, 16
INT = 0xFFFFFFFF  # the kernel looks at the low half of an int argument only, so the filter must, too
GATEWAY_OPTIONS = ((socket.SOL_SOCKET, socket.SO_LINGER), (socket.IPPROTO_TCP, socket.TCP_NODELAY))
# Reading maps and asking for their shape; no loading, no updating. enum bpf_cmd in linux/bpf.h
BPF_READS = (1, 4, 15, 24)

FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fallocate fchdir fchmod fchmodat fchown fchownat fcntl fdatasync fgetxattr flistxattr flock
fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr lchown lgetxattr link linkat
listxattr lseek lstat mkdir mkdirat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile stat statfs
statx symlink symlinkat sync_file_range truncate umask unlink unlinkat utime utimensat utimes write writev
""".split()
PROCESS = """
alarm arch_prctl brk capget capset clock_getres clock_gettime clock_nanosleep execve execveat exit
exit_group fork futex futex_wait futex_waitv futex_wake futex_requeue get_mempolicy get_robust_list getcpu
getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority getrandom getresgid
getresuid getrlimit getrusage getsid gettid gettimeofday getuid ioprio_get ioprio_set kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self madvise map_shadow_stack membarrier
memfd_create mincore mlock mlock2 mmap mprotect mremap msync munlock munmap nanosleep pause pidfd_open
pidfd_send_signal pipe pipe2 restart_syscall rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_tid_address
setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid
setsid setuid sigaltstack sysinfo tgkill time times tkill uname vfork wait4 waitid
""".split()
WAITING = """
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 poll ppoll
pselect6 select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
""".split()
# Calls on links that a role was handed. None of them makes or names a peer.
LINKS = """
getpeername getsockname getsockopt recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto shutdown
""".split()


class Profile(enum.StrEnum):
    """Which calls a role may make beyond its files, memory, threads and handed links."""

    SEALED = "sealed"  # trainer, guard, canary: no socket of its own at all
    GATEWAY = "gateway"  # one more: TCP sockets and connect
    WATCHER = "watcher"  # accept on a handed listener, read BPF maps


class _Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class SeccompError(HomeboundError):
    """libseccomp is missing or refused a rule."""


class _Builder:
    """One filter under construction; names that this architecture does not have are passed over."""

    def __init__(self) -> None:
        try:
            lib = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError as error:
            raise SeccompError(f"{LIBRARY} cannot be loaded", "apt install libseccomp2") from error
        lib.seccomp_init.restype = ctypes.c_void_p
        lib.seccomp_init.argtypes = [ctypes.c_uint32]
        lib.seccomp_release.argtypes = [ctypes.c_void_p]
        lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        lib.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Compare),
        ]  # fmt: skip
        self._lib = lib
        self._filter = lib.seccomp_init(act_errno(errno.EPERM))
        self._check(lib.seccomp_attr_set(self._filter, ATTR_BAD_ARCH, act_errno(errno.EPERM)))

    def add(self, name: str, *compares: tuple[int, int, int, int], action: int = ACT_ALLOW) -> None:
        """Allow ``name``, where each compare is (argument, operation, mask or value, value)."""
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        array = (_Compare * max(len(compares), 1))(*(_Compare(*compare) for compare in compares))
        self._check(self._lib.seccomp_rule_add_array(self._filter, action, number, len(compares), array))

    def export(self) -> int:
        """A memfd with the classic BPF program, at offset 0."""
        fd = os.memfd_create("homebound-seccomp", os.MFD_CLOEXEC)
        self._check(self._lib.seccomp_export_bpf(self._filter, fd))
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def release(self) -> None:
        self._lib.seccomp_release(self._filter)

    def _check(self, code: int) -> None:
        if code < 0:
            raise SeccompError(f"libseccomp refused a rule: {os.strerror(-code)}")


@contextmanager
def _builder() -> Iterator[_Builder]:
    builder = _Builder()
    try:
        yield builder
    finally:
        builder.release()


def act_errno(number: int) -> int:
    """SECCOMP_RET_ERRNO with ``number`` as the error that the caller sees."""
    return 0x00050000 | number


def compile_filter(profile: Profile) -> int:
    """A memfd holding the filter of ``profile``, as ``bwrap --seccomp`` wants it. The caller closes it."""
    with _builder() as rules:
        for name in FILES + PROCESS + WAITING + LINKS:
            rules.add(name)
        rules.add("clone", (0, COMPARE_MASKED, CLONE_NEW_ANY, 0))
        rules.add("clone3", action=act_errno(errno.ENOSYS))
        rules.add("socketpair", (0, COMPARE_EQ, socket.AF_UNIX, 0))
        for request in IOCTLS:
            rules.add("ioctl", (1, COMPARE_MASKED, INT, request))
        _keep_undumpable(rules)
        if profile is Profile.GATEWAY:
            for family in (socket.AF_INET, socket.AF_INET6):
                rules.add("socket", (0, COMPARE_EQ, family, 0), (1, COMPARE_MASKED, 0xF, socket.SOCK_STREAM))
            rules.add("connect")
            # No other: a type of service, a time to live or IP options would be bits in packets that need no
            # credit (bpf/include/credit.bpf.h).
            for level, option in GATEWAY_OPTIONS:
                rules.add("setsockopt", (1, COMPARE_MASKED, INT, level), (2, COMPARE_MASKED, INT, option))
            rules.add("ioctl", (1, COMPARE_MASKED, INT, SIOCOUTQNSD))
        else:
            rules.add("setsockopt")
        if profile is Profile.WATCHER:
            rules.add("accept")
            rules.add("accept4")
            for command in BPF_READS:
                rules.add("bpf", (0, COMPARE_EQ, command, 0))
        return rules.export()


def _keep_undumpable(rules: _Builder) -> None:
    """prctl and limits, but for what would let memory be dumped (core(5))."""
    for option in PRCTLS:
        rules.add("prctl", (0, COMPARE_MASKED, INT, option))
    rules.add("prctl", (0, COMPARE_MASKED, INT, PR_SET_DUMPABLE), (1, COMPARE_EQ, 0, 0))
    for limit in set(range(RLIMITS)) - {RLIMIT_CORE}:
        rules.add("setrlimit", (0, COMPARE_MASKED, INT, limit))
        rules.add("prlimit64", (1, COMPARE_MASKED, INT, limit))
    rules.add("prlimit64", (1, COMPARE_MASKED, INT, RLIMIT_CORE), (2, COMPARE_EQ, 0, 0))  # to read it

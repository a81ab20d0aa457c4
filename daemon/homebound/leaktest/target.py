# SPDX-License-Identifier: Apache-2.0
"""What an attempt is aimed at and what it answers.

Runs inside the sandbox: sees the secret token and the places of the receivers, nothing else.
Imports the standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# Long enough for a loopback answer on a loaded two-core machine.
TIMEOUT_SECONDS = 0.5
# What a wall says, rather than a kernel or a host that lacks the thing.
REFUSALS = ("EPERM", "EACCES", "EROFS", "SIGSYS")
# Calls without a wrapper in glibc whose numbers differ (syscall_64.tbl, asm-generic/unistd.h). From number
# 424 on (Linux 5.1) all architectures share one table.
CALLS: Mapping[str, Mapping[str, int]] = {
    "add_key": {"x86_64": 248, "aarch64": 217},
    "keyctl": {"x86_64": 250, "aarch64": 219},
    "perf_event_open": {"x86_64": 298, "aarch64": 241},
    "bpf": {"x86_64": 321, "aarch64": 280},
    "userfaultfd": {"x86_64": 323, "aarch64": 282},
}


@dataclass(frozen=True)
class Attempt:
    """The answer of one attempt.

    ``sent``: the kernel took the bytes (or, where nothing is sent, gave the forbidden thing).
    ``error``: the name of the errno of the first refusal, or of the signal that ended it; "" when sent.
    ``detail``: one line, a word for each way that was tried.
    """

    sent: bool
    error: str
    detail: str


class Named(Protocol):
    """What is to be known of a channel by whoever does not try it."""

    @property
    def NUMBER(self) -> int:  # noqa: N802 - constants of a module
        """Its row in the list of channels."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """The name of its file."""

    @property
    def RULES(self) -> Sequence[str]:  # noqa: N802
        """The kernel rules that can count it, the likeliest first."""

    @property
    def WALLS(self) -> Sequence[str]:  # noqa: N802
        """The walls that hold it by themselves, on any kernel; docs/leaks.md has what was measured."""

    @property
    def DELIVERS(self) -> bool:  # noqa: N802
        """Whether bytes are sent, so that the receiver's word counts."""


@dataclass(frozen=True)
class Target:
    """A secret token and, for each channel by name, where its receiver is."""

    token: str
    places: Mapping[str, Mapping[str, Any]]

    def place(self, name: str) -> Mapping[str, Any]:
        """Return the place of the receiver of a channel; KeyError when the target has none."""
        return self.places[name]

    def to_json(self) -> str:
        """Return the one line that ``from_json`` reads."""
        places = {name: dict(place) for name, place in self.places.items()}
        return json.dumps({"token": self.token, "places": places}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Target:
        """Read a target; ValueError, KeyError or TypeError when it is malformed."""
        value = json.loads(text)
        return cls(token=str(value["token"]), places=dict(value["places"]))


class Killed(OSError):
    """The process that tried was ended by a signal: SIGSYS is seccomp's (seccomp(2))."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.signal_name = signal.Signals(number).name


def errno_name(error: OSError) -> str:
    """Return the name of an error number, such as EPERM; Python's own timeout counts as ETIMEDOUT."""
    if isinstance(error, Killed):
        return error.signal_name
    if error.errno is None:
        return "ETIMEDOUT" if isinstance(error, TimeoutError) else "EIO"
    return errno.errorcode.get(error.errno, str(error.errno))


def try_each(ways: Mapping[str, Callable[[], None]]) -> Attempt:
    """Try every way of one channel, also after one of them succeeded.

    ``ways``: word for the detail line -> function that sends, or raises OSError when it is refused.
    """
    sent = False
    first = ""
    words = []
    for word, send in ways.items():
        try:
            send()
        except OSError as error:
            first = first or errno_name(error)
            words.append(f"{word} {errno_name(error)}")
        else:
            sent = True
            words.append(f"{word} sent")
    return Attempt(sent=sent, error="" if sent else first, detail=", ".join(words))


def try_many(ways: Mapping[str, Callable[[], None]]) -> Attempt:
    """As try_each, for ways that are many and alike: the detail line names those that got through, and how
    many met each error."""
    tried = {word: try_each({word: send}) for word, send in ways.items()}
    errors = [attempt.error for attempt in tried.values() if not attempt.sent]
    words = [f"{word} sent" for word, attempt in tried.items() if attempt.sent]
    words += [f"{errors.count(error)} x {error}" for error in dict.fromkeys(errors)]
    sent = len(errors) < len(tried)
    # That one of many is not there at all says nothing of the others.
    first = next((error for error in errors if error in REFUSALS), errors[0] if errors else "")
    return Attempt(sent, "" if sent else first, ", ".join(words))


def in_child(attempt: Callable[[], None]) -> None:
    """Run an attempt in a child, which may lose itself in it. Raises the OSError that it raised, or
    Killed."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            attempt()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:  # never return into the caller's code a second time
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise Killed(os.WTERMSIG(status))
    if os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), os.strerror(os.WEXITSTATUS(status)))


def number_of(name: str) -> int:
    """Return the number of a call in CALLS on this machine; OSError ENOSYS where it is not known."""
    number = CALLS[name].get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of {name} is not known on {os.uname().machine}")
    return number


def library_call(name: str, *arguments: Any) -> int:
    """Call a function of the C library; OSError when it returns a negative number."""
    result = int(getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments))
    return _checked(result)


def system_call(number: int, *arguments: Any) -> int:
    """Make a system call by its number; OSError when it fails.

    Arguments are ctypes values; a plain int would be passed as a 32-bit one (syscall(2) is variadic).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return _checked(int(libc.syscall(ctypes.c_long(number), *arguments)))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, errno.errorcode.get(code, str(code)))
    return result

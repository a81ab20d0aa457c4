# SPDX-License-Identifier: Apache-2.0
"""What an attempt is aimed at and what it answers.

Runs inside the sandbox: sees the secret token and the places of the receivers, nothing else.
Imports the standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Long enough for a loopback answer on a loaded two-core machine, short enough for a dozen in a canary.
TIMEOUT_SECONDS = 0.5


@dataclass(frozen=True)
class Attempt:
    """The answer of one attempt.

    ``sent``: the kernel took the bytes (or, where nothing is sent, gave the forbidden thing).
    ``error``: the name of the errno of the first refusal, "" when sent.
    ``detail``: one line, a word for each way that was tried.
    """

    sent: bool
    error: str
    detail: str


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


def errno_name(error: OSError) -> str:
    """Return the name of an error number, such as EPERM; Python's own timeout counts as ETIMEDOUT."""
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


def system_call(number: int, *arguments: Any) -> int:
    """Make a system call by its number; OSError when it fails.

    Arguments are ctypes values; a plain int would be passed as a 32-bit one (syscall(2) is variadic).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, errno.errorcode.get(code, str(code)))
    return result

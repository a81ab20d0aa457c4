# SPDX-License-Identifier: Apache-2.0
"""Every error of ours, with the exit status it ends the command with.

HomeboundError                1   something failed; the message says what, the hint what to do
├── UsageError                2   the command line is wrong
├── NotRunning                3   no daemon of that name runs (the LSB's and systemctl's number)
├── ViolationPresent          4   something was denied, got out, or does not add up
├── ServiceUnavailable       69   something outside that we need is away (EX_UNAVAILABLE)
├── InternalError            70   our bug (EX_SOFTWARE)
├── PermissionMissing        77   a right is missing (EX_NOPERM)
└── ConfigError              78   the configuration is wrong (EX_CONFIG)

The numbers from 69 on are those of sysexits.h. All are below 125, which shells use for themselves.
Imports nothing of ours.
"""

from __future__ import annotations


class HomeboundError(Exception):
    """A fault that a person can do something about.

    ``message`` is one line that says what is wrong, ``hint`` one line that says what to do.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(HomeboundError):
    """The command line is wrong."""

    exit_status = 2


class NotRunning(HomeboundError):
    """No daemon of that name runs."""

    exit_status = 3


class ViolationPresent(HomeboundError):
    """Something was denied, got out, or does not add up."""

    exit_status = 4


class ServiceUnavailable(HomeboundError):
    """Something outside this process that is needed is away."""

    exit_status = 69


class InternalError(HomeboundError):
    """A state that must not occur; a bug of ours."""

    exit_status = 70


class PermissionMissing(HomeboundError):
    """A right is missing."""

    exit_status = 77


class ConfigError(HomeboundError):
    """The configuration is wrong."""

    exit_status = 78

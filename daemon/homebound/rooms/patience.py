# SPDX-License-Identifier: Apache-2.0
"""Waiting that ends when the daemon is told to stop. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Callable

# Whether the daemon was told to stop.
Told = Callable[[], bool]
# How often somebody who waits looks whether it was.
LOOK_SECONDS = 0.1


class ToldToStop(Exception):
    """Somebody who waited for a start gave it up. No error: the stop goes on as any other."""


def never() -> bool:
    """For whoever cannot be told."""
    return False

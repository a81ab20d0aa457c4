# SPDX-License-Identifier: Apache-2.0
"""What is to be loaded for one device, whoever does it. May import: events."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homebound.events import Program

Loader = Literal["auto", "libbpf", "bcc"]
# Reason by program, for those that are not attached.
Reasons = dict[str, str]


@dataclass(frozen=True)
class Job:
    """``objects``: the programs of each file. ``shared``: maps that exist once for all files.
    ``contents``: keys and values of a shared map, written before any program runs. ``pins``: where all of it
    goes. ``off``: programs to leave out."""

    objects: Mapping[str, tuple[Program, ...]]
    shared: tuple[str, ...]
    contents: Mapping[str, tuple[tuple[bytes, bytes], ...]]
    settings: bytes
    cgroup_fd: int
    pins: Path
    off: Collection[Program]

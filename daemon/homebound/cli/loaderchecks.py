# SPDX-License-Identifier: Apache-2.0
"""Who can load the kernel programs on this host: libbpf, bcc, both or none. Facts for the doctor.

bcc is looked for and not started: compiling takes a second and a hundred megabytes.
May import: errors, settings, rooms.walls, kernel.headers, kernel.libbpf.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from homebound.errors import HomeboundError
from homebound.kernel import headers, libbpf
from homebound.kernel.job import Loader
from homebound.rooms.walls import OBJECTS

BCC_ADVICE = "apt install python3-bpfcc linux-libc-dev"


@dataclass(frozen=True)
class Found:
    """One fact. ``required``: whether nothing can start without it, with this setting of loader."""

    name: str
    required: bool
    good: bool
    fact: str
    advice: str


def look(loader: Loader, site_probes: bool) -> Iterator[Found]:
    """``loader``: the setting; ``site_probes``: whether the site has probes, which bcc compiles."""
    lacks = without_bcc()
    # With auto either of them is enough.
    libbpf_needed = loader == "libbpf" or (loader == "auto" and bool(lacks))
    objects = sorted(path.name for path in OBJECTS.glob("*.bpf.o"))
    there = ", ".join(objects) or "none built"
    yield Found("program objects", libbpf_needed, bool(objects), there, "make bpf")
    trouble = _without_libbpf()
    fact = trouble or f"{libbpf.LIBRARY} loads"
    yield Found("libbpf", libbpf_needed, not trouble, fact, "apt install libbpf1")
    wanted = loader == "bcc" or site_probes or bool(trouble) or not objects
    fact = lacks or "bcc and interface headers are there"
    if wanted or not lacks:
        yield Found("bcc", loader == "bcc", not lacks, fact, BCC_ADVICE)


def without_bcc() -> str:
    """What bcc lacks on this host; "" when it can work."""
    if importlib.util.find_spec("bcc") is None:
        return "bcc for Python is not there"
    try:
        with headers.tree():
            return ""
    except HomeboundError as error:
        return error.message


def _without_libbpf() -> str:
    try:
        with libbpf.Library.open():
            return ""
    except HomeboundError as error:
        return error.message

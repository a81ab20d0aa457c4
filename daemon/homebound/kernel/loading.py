# SPDX-License-Identifier: Apache-2.0
"""Which loader makes the programs: libbpf with what was built, bcc on this host, or whichever does better.

Auto takes libbpf, which is quick and small; bcc only where libbpf cannot load at all or a file does not fit
this kernel, and then the one that leaves fewer programs out, required ones first. Programs whose place this
kernel does not have, or that read its structs, are no reason for bcc: it can make neither.
May import: events, kernel.bccchild, kernel.job, kernel.libbpf, kernel.pins, kernel.prebuilt,
kernel.sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from homebound.events import Program
from homebound.kernel import bccchild, pins, prebuilt
from homebound.kernel.bccchild import LoaderError
from homebound.kernel.job import Job, Loader, Reasons
from homebound.kernel.libbpf import NOT_READ, NOT_TAKEN, LibbpfError
from homebound.kernel.sources import only_for_libbpf

# Beside the folder of the objects: their text, for bcc.
SOURCES = "bpf_sources"
# How the reason of a program begins that another compilation might mend.
MENDABLE = (NOT_READ, NOT_TAKEN)


def load(loader: Loader, objects: Path, job: Job, compiled: Path | None = None) -> tuple[Loader, Reasons]:
    """Load and attach. Returns who loaded, and the reason of each program that is not attached.

    ``compiled``: a file in which bcc's instructions are kept between loads.
    """
    sources = objects.with_name(SOURCES)
    if loader == "libbpf":
        return "libbpf", prebuilt.load(objects, job)
    if loader == "bcc":
        return "bcc", bccchild.load(sources, job, compiled)
    try:
        first = prebuilt.load(objects, job)
    except LibbpfError as error:
        pins.remove(job.pins, pins.FOLDERS)
        return "bcc", _instead(sources, job, compiled, error)
    mendable = first.keys() - only_for_libbpf(sources)
    if not any(first[name].startswith(MENDABLE) for name in mendable):
        return "libbpf", first
    return _better(sources, job, compiled, first)


def weight(missing: Mapping[str, str]) -> tuple[int, int]:
    """How bad it is that these programs are missing: required ones, then all."""
    required = {program.bpf_name for program in Program if program.is_required}
    return len(required & missing.keys()), len(missing)


def _instead(sources: Path, job: Job, compiled: Path | None, error: LibbpfError) -> Reasons:
    try:
        return bccchild.load(sources, job, compiled)
    except LoaderError as second:
        raise LibbpfError(error.message, f"nor does bcc load them: {second}", error.code) from second


def _better(sources: Path, job: Job, compiled: Path | None, first: Reasons) -> tuple[Loader, Reasons]:
    """Try bcc beside what libbpf has in place, and keep one of them."""
    aside = pins.set_aside(job.pins)[-1]
    try:
        second = bccchild.load(sources, job, compiled)
    except LoaderError as error:
        first = {name: f"{reason}; nor does bcc: {error.message}" for name, reason in first.items()}
    else:
        if weight(second) < weight(first):
            pins.remove(job.pins, [aside])
            return "bcc", second
    pins.remove(job.pins, pins.FOLDERS)
    pins.bring_back(job.pins, aside)
    return "libbpf", first

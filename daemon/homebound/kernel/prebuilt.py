# SPDX-License-Identifier: Apache-2.0
"""Loads the objects that were built ahead, with libbpf.

Needs root. May import: kernel.bpf, kernel.job, kernel.libbpf, kernel.pins. Source: kernel/libbpf.py.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from homebound.kernel import bpf, libbpf, pins
from homebound.kernel.job import Job, Reasons
from homebound.kernel.pins import LINKS, MAPS, PROGRAMS

SUFFIX = ".bpf.o"


def load(folder: Path, job: Job) -> Reasons:
    """Load, attach and pin. Raises LibbpfError for a file with a required program that cannot be read."""
    reasons: Reasons = {}
    pins.make(job.pins)
    with libbpf.Library.open() as library:
        for name, programs in job.objects.items():
            source = _Source(library, folder / f"{name}{SUFFIX}", job)
            names = [program.bpf_name for program in programs if program not in job.off]
            try:
                reasons |= source.load_each(names) if names else {}
            except libbpf.LibbpfError as error:
                if any(program.is_required for program in programs):
                    raise
                reasons |= dict.fromkeys(names, str(error))
    return reasons


@dataclass(frozen=True)
class _Source:
    """One object file, and where what is made of it goes."""

    library: libbpf.Library
    path: Path
    job: Job

    def load(self, names: Collection[str]) -> Reasons:
        """Load, pin and attach these programs of the file; the reason for each that cannot be attached.

        Raises NotTaken when the kernel does not take all of them, LibbpfError for anything else.
        """
        with self.library.open_object(self.path) as opened:
            opened.keep_only(names)
            opened.set_settings(self.job.settings)
            _share_maps(opened, self.job)
            opened.load()
            _pin_maps(opened, self.job)
            return _attach(opened, names, self.job)

    def load_each(self, names: Collection[str]) -> Reasons:
        """The same, but what the kernel does not take falls out alone, with its reason."""
        try:
            return self.load(names)
        except libbpf.NotTaken as error:
            reason = str(error)
        if len(names) == 1:
            return dict.fromkeys(names, reason)
        return {key: why for name in names for key, why in self.load_each((name,)).items()}


def _share_maps(opened: libbpf.Object, job: Job) -> None:
    for name in opened.maps().keys() & set(job.shared):
        path = job.pins / MAPS / name
        if path.exists():
            fd = bpf.open_pin(path)
            try:
                opened.reuse(name, fd)
            finally:
                os.close(fd)


def _pin_maps(opened: libbpf.Object, job: Job) -> None:
    for name in sorted(opened.maps().keys() & set(job.shared)):
        path = job.pins / MAPS / name
        if not path.exists():
            opened.pin_map(name, path)
            _fill(path, job.contents.get(name, ()))


def _fill(path: Path, contents: tuple[tuple[bytes, bytes], ...]) -> None:
    fd = bpf.open_pin(path)
    try:
        for key, value in contents:
            bpf.update(fd, key, value)
    finally:
        os.close(fd)


def _attach(opened: libbpf.Object, names: Collection[str], job: Job) -> Reasons:
    reasons: Reasons = {}
    for name in names:
        target = job.cgroup_fd if opened.is_for_cgroup(name) else None
        try:
            if opened.is_for_link(name):
                opened.pin_program(name, job.pins / PROGRAMS / name)  # kernel/uplinks.py attaches it
            else:
                opened.attach(name, target, job.pins / PROGRAMS / name, job.pins / LINKS / name)
        except libbpf.LibbpfError as error:
            reasons[name] = str(error)
    return reasons

# SPDX-License-Identifier: Apache-2.0
"""From load to attached, by either loader: wall time and processor time, the child's included. Prints."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from homebound.kernel import features
from homebound.kernel.job import Loader
from homebound.kernel.probes import Probes

pytestmark = pytest.mark.root

OBJECTS = Path(__file__).resolve().parents[2] / "daemon/homebound/bpf_objects"
TIMES = 5
AIMS: dict[Loader, float] = {"libbpf": 0.1, "bcc": 3.0}


@contextmanager
def empty_cgroup() -> Iterator[Path]:
    root = features.cgroup2_mounts()[0] / f"homebound-bench-{os.getpid()}"
    root.mkdir()
    try:
        yield root
    finally:
        root.rmdir()


def processor_seconds() -> float:
    """Of this process and of its children that ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def test_load_to_attached() -> None:
    """The loaders take turns, so that what else runs here troubles both alike."""
    wall: dict[Loader, list[float]] = {loader: [] for loader in AIMS}
    processor: dict[Loader, list[float]] = {loader: [] for loader in AIMS}
    with empty_cgroup() as root:
        pins = Path("/sys/fs/bpf") / root.name
        for loader in [*AIMS] * TIMES:
            began, used = time.perf_counter(), processor_seconds()
            probes = Probes.load(OBJECTS, root, 2, True, pins, loader=loader)
            wall[loader].append(time.perf_counter() - began)
            processor[loader].append(processor_seconds() - used)
            count = sum(state.attached for state in probes.programs())
            probes.remove()
            assert count > 0
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\n{'load to attached':18}{'median':>10}{'least':>10}{'processor':>11}{'aim':>8}   seconds")
    for loader, aim in AIMS.items():
        print(
            f"{loader:18}{statistics.median(wall[loader]):10.3f}{min(wall[loader]):10.3f}"
            f"{statistics.median(processor[loader]):11.3f}{aim:8.1f}"
        )
    print(f"{count} programs; largest child of this run: {peak:.0f} MB")

# SPDX-License-Identifier: Apache-2.0
"""A device for kernel tests: a root cgroup with role cgroups, and the programs attached, by both loaders.

Every test that loads programs runs once with libbpf and once with bcc, whose compiler runs once a session.
Everything is removed again, also after a failure.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypedDict

import pytest

from homebound.events import Role
from homebound.kernel import features, maps
from homebound.kernel.job import Loader
from homebound.kernel.probes import Probes
from kernel.rig import Device, remove_cgroup, unattached

ROOT = Path(__file__).resolve().parent.parent.parent
OBJECTS = ROOT / "daemon/homebound/bpf_objects"
BPF_FILE_SYSTEM = Path("/sys/fs/bpf")


class MakeDevice(Protocol):
    """The fixture ``make_device``."""

    def __call__(self, enforce: bool = True, count_calls: bool = False) -> Device: ...


class How(TypedDict):
    """Arguments of Probes.load: by whom, and where bcc's instructions are kept."""

    loader: Loader
    compiled: Path


@pytest.fixture(params=("libbpf", "bcc"))
def how(request: pytest.FixtureRequest, kept: Path) -> How:
    """One loader after the other."""
    if request.param == "bcc" and importlib.util.find_spec("bcc") is None:
        pytest.skip("bcc is not there: install the package python3-bpfcc")
    return How(loader=request.param, compiled=kept)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which bcc's instructions are kept."""
    return tmp_path_factory.mktemp("bcc") / "compiled.json"


@pytest.fixture(scope="session")
def objects() -> Path:
    """The folder of the built objects."""
    subprocess.run(["make", "-s", "-C", str(ROOT / "bpf")], check=True)
    return OBJECTS


@pytest.fixture(scope="session")
def bpf_file_system() -> Path:
    """Where pins live; mounted when it is not."""
    if not BPF_FILE_SYSTEM.is_mount():
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPF_FILE_SYSTEM)], check=True)
    return BPF_FILE_SYSTEM


@pytest.fixture
def device_cgroup() -> Iterator[Path]:
    """An empty root cgroup with role cgroups; killed and removed at the end."""
    with role_cgroups(f"homebound-test-{os.getpid()}") as root:
        yield root


@contextmanager
def role_cgroups(name: str) -> Iterator[Path]:
    """The same for the length of a block."""
    mounts = features.cgroup2_mounts()
    if not mounts:
        pytest.skip("cgroup v2 is not mounted")
    root = mounts[0] / name
    root.mkdir()
    try:
        for role in Role:
            (root / role.label).mkdir()
        yield root
    finally:
        remove_cgroup(root)


@pytest.fixture
def make_device(objects: Path, bpf_file_system: Path, device_cgroup: Path, how: How) -> Iterator[MakeDevice]:
    """Makes the device, enforcing or observing."""
    pins = bpf_file_system / device_cgroup.name
    made: list[Device] = []

    def make(enforce: bool = True, count_calls: bool = False) -> Device:
        device = load_device(objects, device_cgroup, pins, enforce, how, count_calls)
        made.append(device)
        assert unattached(device.probes) == {}
        return device

    try:
        yield make
    finally:
        for device in made:
            device.stream.close()
            if device.pins.exists():
                device.probes.remove()
            else:
                device.probes.close()


def load_device(
    objects: Path, cgroup: Path, pins: Path, enforce: bool, how: How, count_calls: bool = False
) -> Device:
    """Load the programs and give each role cgroup its role."""
    level = len(cgroup.relative_to(features.cgroup2_mounts()[0]).parts) + 1
    probes = Probes.load(objects, cgroup, level, enforce, pins, count_calls=count_calls, **how)
    for role in Role:
        if role is not Role.NONE:
            probes.assign((cgroup / role.label).stat().st_ino, role)
    return Device(cgroup, pins, probes, maps.EventStream(probes.map_fd("events")))


@pytest.fixture
def device(make_device: MakeDevice) -> Device:
    """A device whose programs enforce."""
    return make_device()

# SPDX-License-Identifier: Apache-2.0
"""Images for the virtual machines: the bare systems, this environment, the packages and this clone.

All but the packages are kept outside of the tree, in CACHE (~/.cache/homebound/vm), and made when missing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT
from homebound import __version__
from system.vm.vm import Vm, pack

KERNELS = ("6.1", pytest.param("6.12", marks=pytest.mark.whole))
SUPPLY = "/srv/supply"
# What an interpreter of the machine runs with this clone: the environment lies where it lies on the host.
ENVIRONMENT = os.path.realpath(sys.prefix)
# The same once more for the trainer, whose unit has a /tmp of its own: a clone may lie there.
TRAINERS = "/srv/environment"
PYTHON = f"PYTHONPATH={SUPPLY}/daemon {ENVIRONMENT}/bin/python -B"


RESULT = """# System tests: the last results

The last result of each, written by `make test-system-whole`: the Debian packages in a virtual machine with
Debian 12, an emulated processor (no KVM), a real systemd, cgroup controllers and BPF LSM.

| what | kernel | result | day | homebound |
|---|---|---|---|---|
"""


def cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("CACHE") or home / "homebound/vm")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def image(kernel: str) -> Path:
    """The folder with the bare system on this kernel, made when missing."""
    words = [str(ROOT / "tests/system/vm/image.sh"), kernel]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def environment_image() -> Path:
    """This test's own environment, with torch and Flower, as a file system."""
    site = next(Path(ENVIRONMENT, "lib").glob("python*/site-packages"))
    names = sorted(path.name for path in site.glob("*.dist-info"))
    key = hashlib.sha256("\n".join([ENVIRONMENT, *names]).encode()).hexdigest()[:12]
    image = cache() / f"environment-{key}.img"
    if not image.exists():
        pack(Path(ENVIRONMENT), image.with_suffix(".part")).rename(image)
    return image


def newer(package: Path, out: Path) -> None:
    """The same package with a higher version, packed quickly."""
    tree = out / "newer"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    lines = [f"{line}+newer1" if line.startswith("Version: ") else line for line in lines]
    control.write_text("\n".join(lines) + "\n")
    words = ["dpkg-deb", "-Zgzip", "-z1", "-b", str(tree), str(out / "newer.deb")]
    subprocess.run(words, check=True, capture_output=True)
    shutil.rmtree(tree)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write down what came of the whole set, if that was asked for; what was left out keeps its result."""
    wanted = os.environ.get("HOMEBOUND_WRITE_RESULT")
    if not wanted:
        return
    out = Path(wanted)
    old = out.read_text().splitlines() if out.exists() else []
    old = [line for line in old if line.startswith("| ") and not line.startswith("| what |")]
    rows = {tuple(line.split(" | ")[:2]): line for line in old}
    day = time.strftime("%Y-%m-%d", time.gmtime())
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if outcome == "error" or report.when == "call":
                name, _, kernel = report.nodeid.rpartition("::")[2].removeprefix("test_").partition("[")
                key = (f"| {name.replace('_', ' ')}", kernel.rstrip("]"))
                rows[key] = f"{key[0]} | {key[1]} | {outcome} | {day} | {__version__} |"
    out.write_text(RESULT + "".join(f"{row}\n" for row in sorted(rows.values())))


@pytest.fixture(scope="session")
def supply_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of dist/, a newer one, and of this clone what starts a federation."""
    folder = tmp_path_factory.mktemp("supply")
    tree = folder / "tree"
    tree.mkdir()
    packages = sorted((ROOT / "dist").glob("homebound*.deb"))
    assert len(packages) == 2, "run make deb"
    for package in packages:
        shutil.copy(package, tree)
    newer(packages[1], tree)
    for name in ("daemon", "examples", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.o"))
    image = pack(tree, folder / "supply.img")
    shutil.rmtree(tree)
    return image


@pytest.fixture(scope="session")
def new_vm(tmp_path_factory: pytest.TempPathFactory, supply_image: Path) -> Callable[[str], Vm]:
    """Makes a machine with this kernel, on a disk of its own, without homebound."""

    def make(kernel: str) -> Vm:
        folder = tmp_path_factory.mktemp(f"vm-{kernel}")
        environment = environment_image()
        disks = {SUPPLY: supply_image, ENVIRONMENT: environment, TRAINERS: environment}
        return Vm.make(image(kernel), folder, disks)

    return make

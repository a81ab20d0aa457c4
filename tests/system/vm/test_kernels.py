# SPDX-License-Identifier: Apache-2.0
"""Programs on other kernels than this host's: kernel tests of this clone, run in the machine.

Those on security hooks, and those that trace. Minutes of emulation each, so not part of ``make test``.
``make test-hooks``, which the build server runs, is the first on kernel 6.1.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from conftest import ROOT
from homebound.kernel.sources import TYPES_WANTED
from system.vm.conftest import ENVIRONMENT, KERNELS, environment_image, image
from system.vm.vm import SECURITY, Vm, pack

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(3600)]
CLONE, PLACE = "/srv/clone", "/root/clone"
WITHOUT_BPF = SECURITY.removesuffix(",bpf")
# The disk is read-only, and tests write beside themselves. The objects are in it: there is no compiler.
READY = f"cp -a {CLONE} {PLACE} && cd {PLACE} && ln -sf /bin/true /usr/local/bin/make && uname -r"
WORDS = "-m pytest -p no:cacheprovider -q -rs --color=no --tb=short"
PYTEST = f"PYTHONPATH={PLACE}/daemon {ENVIRONMENT}/bin/python -B {WORDS}"
HOOKS = f"{READY} && {PYTEST} tests/kernel/test_lsm.py"
# What depends on a kernel's structs, calls and network; each by both loaders, where bcc can.
TRACING = (
    "processes", "files", "resources", "calltimes", "calls", "syscalls", "maps",
    "egress", "credit", "uplink",
)  # fmt: skip
FILES = " ".join(f"tests/kernel/test_{name}.py" for name in TRACING)
# Which no host without controllers can run.
CONTROLLERS = "tests/kernel/test_cgroups.py::test_who_gave_controllers_may_come_back"
TRACE = f"{READY} && sysctl -q kernel.task_delayacct=1 && {PYTEST} {FILES} {CONTROLLERS}"


@pytest.fixture(scope="module")
def clone_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the kernel tests need of this clone."""
    folder = tmp_path_factory.mktemp("clone")
    tree = folder / "tree"
    for name in ("daemon", "bpf", "tests", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    return pack(tree, folder / "clone.img")


@pytest.fixture(params=KERNELS)
def vm(request: pytest.FixtureRequest, tmp_path: Path, clone_image: Path) -> Vm:
    disks = {CLONE: clone_image, ENVIRONMENT: environment_image()}
    return Vm.make(image(request.param), tmp_path, disks)


def test_every_hook_refuses_the_roles_and_nobody_else(vm: Vm) -> None:
    """The verifier takes all, 23 of 23 are counted, and the sandbox starts behind the hooks."""
    said = vm.boot({"hooks": HOOKS}, 1500).out("hooks")
    assert "skipped" not in said, said
    assert " passed" in said.splitlines()[-1], said


def test_a_kernel_without_bpf_in_its_list_says_so(vm: Vm) -> None:
    said = vm.boot({"hooks": HOOKS}, 900, security=WITHOUT_BPF).out("hooks")
    assert "bpf is not among the kernel's security modules" in said, said
    assert " passed" not in said.splitlines()[-1], said


@pytest.mark.whole
def test_the_tracing_programs_count_right(vm: Vm) -> None:
    """Those that read a kernel's structs too; and whom the OOM killer ended, which needs the controller."""
    said = vm.boot({"trace": TRACE}, 3300, security=WITHOUT_BPF).out("trace")
    skipped = [line for line in said.splitlines() if line.startswith("SKIPPED") and TYPES_WANTED not in line]
    assert skipped == [], said
    assert " passed" in said.splitlines()[-1], said

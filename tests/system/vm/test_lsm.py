# SPDX-License-Identifier: Apache-2.0
"""Programs on security hooks, on kernels that have them: the kernel tests of this clone, run in the machine.

Wants an image of image.sh, named by HOMEBOUND_VM_IMAGE. HOMEBOUND_VM_KERNELS names further kernels to boot
the same disk with, as ``vmlinux`` files with a colon between them: Debian 13's 6.12 needs no module for this.
Minutes of emulation each, so not part of ``make test``.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from system.vm.vm import Vm

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(3600)]
CLONE = "/srv/clone"
PYTHON = f"cd {CLONE} && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={CLONE}/daemon {CLONE}/.venv/bin/python"
# The objects are in the clone; the machine has no compiler.
NO_MAKE = "ln -sf /bin/true /usr/local/bin/make"
IMAGE, FURTHER = os.environ.get("HOMEBOUND_VM_IMAGE", ""), os.environ.get("HOMEBOUND_VM_KERNELS", "")
KERNELS = [path for path in (f"{IMAGE}/vmlinux", *FURTHER.split(":")) if IMAGE and path]


@pytest.fixture(scope="module", params=KERNELS or ["none"])
def vm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vm:
    if not IMAGE:
        pytest.fail("HOMEBOUND_VM_IMAGE names no folder of image.sh", pytrace=False)
    made = Vm.make(Path(IMAGE), tmp_path_factory.mktemp("vm"))
    return replace(made, kernel=Path(request.param))


def test_every_hook_refuses_the_roles_and_nobody_else(vm: Vm) -> None:
    """The verifier takes all, 23 of 23 are counted, and the sandbox starts behind the hooks."""
    words = "-m pytest -p no:cacheprovider -q -rs tests/kernel/test_lsm.py"
    result = vm.run(f"uname -r; {NO_MAKE}; {PYTHON} {words}", 1500)
    assert result.status == 0, result.output + result.console
    assert "skipped" not in result.output, result.output
    assert " passed" in result.output.splitlines()[-1]


def test_a_kernel_without_bpf_in_its_list_says_so(vm: Vm) -> None:
    job = (
        f"{NO_MAKE}; {PYTHON} -m homebound doctor --json; {PYTHON} -m pytest -q -rs tests/kernel/test_lsm.py"
    )
    result = vm.run(job, 900, security="landlock,yama,apparmor")
    assert "bpf is not among the kernel's security modules" in result.output, result.output + result.console
    assert " passed" not in result.output.splitlines()[-1]

# SPDX-License-Identifier: Apache-2.0
"""The packages on a kernel 6.1 with controllers and BPF LSM: rounds, walls, reboot, power cut.

Wants an image: ``tests/system/vm/image.sh bookworm FOLDER dist/*.deb``, named by HOMEBOUND_VM_IMAGE. Not
part of ``make test``: a boot is half a minute of emulation, training minutes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from system.vm.vm import Vm

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]
CLONE = "/srv/clone"
TRAIN = f"PYTHONPATH={CLONE}/daemon {CLONE}/.venv/bin/python -B {CLONE}/tests/system/rounds.py"


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Vm:
    image = os.environ.get("HOMEBOUND_VM_IMAGE")
    if not image:
        pytest.fail("HOMEBOUND_VM_IMAGE names no folder of image.sh", pytrace=False)
    return Vm.make(Path(image), tmp_path_factory.mktemp("vm"))


def test_two_rounds_and_a_leaktest(vm: Vm) -> None:
    limits = "cd /sys/fs/cgroup/system.slice/homebound.service/trainer && cat memory.swap.max pids.max"
    scores = "for role in watcher trainer; do cat /proc/$(pgrep -n -u homebound-$role)/oom_score_adj; done"
    result = vm.run(f"uname -r; {TRAIN} 2 && {limits} && {scores} && homebound leaktest", 600)
    assert result.status == 0, result.output + result.console
    lines = result.output.splitlines()
    trained = json.loads(next(line for line in lines if line.startswith('{"run"')))
    assert trained["walls"]["no-swap"]["active"]
    assert trained["violations"] == []
    place = lines.index("0")  # memory.swap.max
    assert lines[place : place + 4] == ["0", "512", "-900", "800"]


def test_reboot_with_the_unit_enabled(vm: Vm) -> None:
    assert vm.run("systemctl enable homebound", 120).status == 0
    result = vm.run("systemctl is-active homebound && homebound ledger verify", 120)
    assert result.status == 0, result.output + result.console


def test_power_cut_leaves_a_whole_ledger(vm: Vm) -> None:
    watch = "(journalctl -f -n0 -u homebound | grep -m1 'were released' && echo CUT) &"
    result = vm.run(f"{watch} {TRAIN} 50", 600, cut_at="CUT")
    assert result.status is None
    assert "CUT" in result.output
    after = vm.run("systemctl is-active homebound && homebound ledger verify", 120)
    assert after.status == 0, after.output + after.console


def test_kernel_without_bpf_lsm_is_told(vm: Vm) -> None:
    asked = "homebound doctor --json; cat /sys/kernel/security/lsm"
    without = vm.run(asked, 120, security="landlock,yama,apparmor")
    assert "bpf" not in without.output.splitlines()[-1]
    with_it = vm.run(asked, 120)
    assert "bpf" in with_it.output.splitlines()[-1]

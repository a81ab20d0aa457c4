# SPDX-License-Identifier: Apache-2.0
"""The packages in a virtual machine with a device's kernel, controllers and BPF LSM: install to purge.

``make test-system`` runs it on kernel 6.1, ``make test-system-whole`` on 6.12 and with the trainer's package
too, and writes docs/system-tests.md. One machine a kernel, in this order. Not part of ``make test``: the
processor is emulated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from packages import leftovers
from system.vm import steps
from system.vm.conftest import KERNELS
from system.vm.vm import Boot, Vm

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def vm(new_vm: Callable[[str], Vm], kernel: str) -> Vm:
    return new_vm(kernel)


@pytest.fixture(scope="module")
def first(vm: Vm) -> Boot:
    """Installed, two rounds, every wall tried; its bounds, its watchdog and its death; enabled."""
    return vm.boot(
        {
            "facts": steps.facts(),
            "install": steps.install(),
            "settings": steps.settings(),
            "rounds": steps.rounds(2),
            "limits": steps.limits(),
            "leaktest": "homebound leaktest --json",
            "doctor": "homebound doctor --json || true",
            "hungry": steps.hungry(),
            "busy": steps.busy(),
            "tidy": steps.tidy(),
            "hang": steps.hang(),
            "killed": steps.killed(),
            "enable": "systemctl enable homebound",
            "verify": steps.verify(),
        },
        seconds=3000,
    )


@pytest.fixture(scope="module")
def cut(first: Boot, vm: Vm) -> Boot:
    """Started by itself, and its power is cut while it trains."""
    first.out("enable")
    asked = {"active": steps.active(), "verify": steps.verify(), "rounds": steps.train_and_tell(50)}
    return vm.boot(asked, seconds=2400, cut_at="CUT")


@pytest.fixture(scope="module")
def last(cut: Boot, vm: Vm) -> Boot:
    """After the cut, on a kernel that was not told to use BPF LSM; upgraded, downgraded, purged."""
    cut.out("active")
    asked = {
        "active": steps.active(),
        "verify": steps.verify(),
        "status": "homebound status --json || true",
        "doctor": "homebound doctor --json || true",
        "upgrade": steps.upgrade(),
        "facts": "cat /root/before",
        "purge": steps.purge(),
    }
    return vm.boot(asked, seconds=1800, security="landlock,yama,apparmor")


def test_the_kernel_is_the_one_that_was_asked_for(first: Boot, kernel: str) -> None:
    release, modules, controllers = first.out("facts").splitlines()
    assert release.startswith(f"{kernel}.")
    assert "bpf" in modules.split(",")
    assert {"cpu", "memory", "pids", "io"} <= set(controllers.split())


def test_installed_it_waits_to_be_started(first: Boot) -> None:
    assert first.out("install").splitlines()[-3:] == ["disabled", "inactive", "homebound 0.1.0"]


def test_two_rounds(first: Boot) -> None:
    line = next(line for line in first.out("rounds").splitlines() if line.startswith('{"run"'))
    trained = json.loads(line)
    assert trained["verified"]
    assert trained["released"]["updates"] >= 2
    assert trained["violations"] == []
    for wall in ("namespaces", "seccomp", "landlock", "cgroup-bpf", "bpf-lsm", "no-swap"):
        assert trained["walls"][wall]["active"], wall


def test_the_trainer_has_its_bounds(first: Boot) -> None:
    assert first.out("limits").splitlines() == [
        "memory.swap.max:0", "pids.max:512", f"memory.max:{steps.MEMORY_MAX}", "memory.oom.group:1",
        f"cpu.max:{steps.CPU_MAX_PERCENT * 1000} 100000",
        "watcher:-900", "guard:-500", "gateway:-500", "trainer:800",
    ]  # fmt: skip


def test_every_way_out_is_shut(first: Boot) -> None:
    report = json.loads(first.out("leaktest"))
    assert len(report["channels"]) > 20


def test_bpf_lsm_is_listed(first: Boot) -> None:
    assert _check(first.out("doctor"), "bpf lsm")["result"] == "good"


def test_more_memory_than_allowed_ends_the_training_alone(first: Boot) -> None:
    told = first.out("hungry")
    assert re.search("^oom_group_kill [1-9]", told, re.MULTILINE)
    assert "again" in told


def test_more_time_than_allowed_is_not_given(first: Boot) -> None:
    told = first.out("busy")
    assert re.search("^nr_throttled [1-9]", told, re.MULTILINE)
    assert "new now: trainer.cpu_max_percent" in told


def test_a_stop_leaves_nothing(first: Boot) -> None:
    told = first.out("tidy")
    assert told == "ls: cannot access '/sys/fs/bpf/homebound': No such file or directory"


def test_the_watchdog_ends_a_daemon_that_hangs(first: Boot) -> None:
    assert "Watchdog timeout" in first.out("hang")


def test_killed_it_comes_again(first: Boot) -> None:
    assert first.out("killed").splitlines()[-1] == "4"
    assert first.out("verify")


def test_enabled_it_starts_with_the_machine(cut: Boot, first: Boot) -> None:
    assert cut.out("active").endswith("active")
    assert cut.out("verify") == first.out("verify")


def test_a_power_cut_leaves_a_whole_ledger(cut: Boot, last: Boot) -> None:
    assert cut.steps["rounds"].status is None
    assert "CUT" in cut.steps["rounds"].output
    assert last.out("active").endswith("active")
    assert _entries(last.out("verify")) > _entries(cut.out("verify"))


def test_a_kernel_without_bpf_lsm_is_told(last: Boot) -> None:
    told = _check(last.out("doctor"), "bpf lsm")
    assert told["result"] == "bad"
    assert "lsm=" in told["advice"]
    assert "bpf is not among the kernel's security modules" in told["fact"]
    walls = json.loads(last.out("status"))["walls"]
    without = walls.pop("bpf-lsm")
    assert not without["active"]
    assert without["detail"].startswith("not here:")
    # Every wall that is held on any kernel holds.
    assert {name for name, wall in walls.items() if not wall["active"]} == set()


def test_upgrade_and_downgrade_keep_ledger_and_file(last: Boot) -> None:
    told = last.out("upgrade").splitlines()
    assert told.count("# mine") == 2
    assert [line for line in told if line in ("0.1.0+newer1", "0.1.0")] == ["0.1.0+newer1", "0.1.0"]


def test_purge_leaves_nothing(last: Boot) -> None:
    told, _, files = last.out("purge").partition("== files\n")
    assert "/var/lib/homebound/default/guard" in told
    assert "/sys/fs/bpf/homebound\n" not in told
    assert leftovers.names(files) - leftovers.names(last.out("facts")) == set()


@pytest.mark.whole
def test_the_trainers_package_trains(new_vm: Callable[[str], Vm], kernel: str) -> None:
    asked = {
        "install": steps.install(),
        "trainer": steps.install("homebound-trainer"),
        "settings": steps.settings(trainer=""),
        "rounds": steps.rounds(1),
        "program": "tr '\\0' '\\n' </proc/$(pgrep -n -u homebound-trainer)/cmdline | head -1",
    }
    boot = new_vm(kernel).boot(asked, seconds=2400)
    assert boot.out("program") == "/usr/lib/homebound/trainer/bin/python3"


def _check(document: str, name: str) -> dict[str, str]:
    found: dict[str, str] = next(c for c in json.loads(document)["checks"] if c["name"] == name)
    return found


def _entries(text: str) -> int:
    match = re.search("([0-9]+) entries", text)
    assert match, text
    return int(match[1])

# SPDX-License-Identifier: Apache-2.0
"""The unit under a real systemd: start, readiness, watchdog, reload, stop, failures, users, cgroups.

The exposure score is a ratchet: exposure.json holds the number, and a better one has to be written there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from system.conftest import ROOT_OF_CLONE, UNIT, drop_in, put
from system.machine import Machine

pytestmark = pytest.mark.root
ROLES = ("watcher", "guard", "gateway", "trainer")


def start(machine: Machine) -> None:
    done = machine.run(f"systemctl start {UNIT}", check=False)
    assert done.returncode == 0, machine.journal(UNIT)


def status(machine: Machine) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(machine.run("homebound status --json", check=False).stdout)
    return document


def until(found: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not (result := found()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def leftovers(machine: Machine) -> str:
    """Processes, pins, cgroups, run files and mounts with our name."""
    return machine.run(
        "pgrep -a -f '[b]wrap|homebound[.]supervisor|homebound[.]kernel'; ls -d /sys/fs/bpf/homebound;"
        f" find /sys/fs/cgroup/{machine.cgroup.name} -name '{UNIT}*';"
        " find /run/homebound -mindepth 1; grep homebound /proc/mounts | grep -v ' /srv/homebound-clone '",
        check=False,
    ).stdout


def test_unit_is_right(machine: Machine) -> None:
    machine.run("mkdir -p /usr/share/man/man1 /usr/share/man/man5")
    found = machine.run(f"systemd-analyze verify --man=no /usr/lib/systemd/system/{UNIT}")
    assert (found.stdout + found.stderr).strip() == ""


def test_verify_sees_a_planted_fault(machine: Machine) -> None:
    text = machine.path(f"/usr/lib/systemd/system/{UNIT}").read_text()
    put(machine, "/run/planted/planted.service", text.replace("WatchdogSec=", "WatchDogSecs="))
    found = machine.run("systemd-analyze verify --man=no /run/planted/planted.service", check=False)
    assert "WatchDogSecs" in found.stderr


def test_exposure_only_goes_down(machine: Machine) -> None:
    limits = json.loads((ROOT_OF_CLONE / "tests/system/exposure.json").read_text())
    text = machine.out(f"systemd-analyze security --offline=yes --no-pager /usr/lib/systemd/system/{UNIT}")
    match = re.search(r"exposure level for .*: ([0-9.]+)", text)
    assert match, text
    score = float(match[1])
    assert score <= limits[UNIT], "a setting was lost"
    assert score == limits[UNIT], f"better: write {score} into exposure.json"


def test_users_and_folders_are_made(machine: Machine) -> None:
    for role in (*ROLES, "canary"):
        entry = machine.out(f"getent passwd homebound-{role}").split(":")
        assert entry[5:] == ["/", "/usr/sbin/nologin"]
        assert 0 < int(entry[2]) < 1000
    assert machine.out("stat -c '%U %a' /var/lib/homebound") == "root 711"


def test_start_tells_when_it_is_ready(machine: Machine) -> None:
    start(machine)
    shown = machine.show(UNIT, "ActiveState", "SubState", "StatusText", "NotifyAccess", "WatchdogUSec")
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    assert shown["StatusText"].startswith("waiting; federation ")
    assert shown["WatchdogUSec"] == "1min"
    # Whatever systemd was told is true by then: the walls were tried and every role runs.
    found = status(machine)
    assert all(found["roles"][role]["state"] == "running" for role in ROLES)
    assert found["canary"]["tried"]
    assert found["canary"]["out"] == 0


def test_roles_have_their_users_and_cgroups(machine: Machine) -> None:
    start(machine)
    roles = status(machine)["roles"]
    assert machine.show(UNIT, "Delegate")["Delegate"] == "yes"
    for role in ROLES:
        pid = roles[role]["pid"]
        assert machine.out(f"stat -c %U /proc/{pid}") == f"homebound-{role}"
        assert machine.out(f"grep ^0:: /proc/{pid}/cgroup").endswith(f"/system.slice/{UNIT}/{role}")
        assert machine.out(f"awk '/^CapBnd/ {{print $2}}' /proc/{pid}/status").strip("0") == ""
    main = machine.show(UNIT, "MainPID")["MainPID"]
    assert machine.out(f"grep ^0:: /proc/{main}/cgroup").endswith(f"/system.slice/{UNIT}/supervisor")
    # The service's own cgroup holds no process: only so can it give controllers to those below.
    assert machine.out(f"cat /sys/fs/cgroup$(systemctl show -P ControlGroup {UNIT})/cgroup.procs") == ""


def test_stop_leaves_nothing(machine: Machine) -> None:
    start(machine)
    assert "/sys/fs/bpf/homebound" in leftovers(machine)
    machine.run(f"systemctl stop {UNIT}")
    assert machine.show(UNIT, "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    assert leftovers(machine) == ""
    assert machine.out("ls /var/lib/homebound/default") != ""


def test_watchdog_ends_a_daemon_that_hangs(machine: Machine) -> None:
    drop_in(machine, "WatchdogSec=3\nTimeoutAbortSec=1\nRestartSec=100ms")
    start(machine)
    before = machine.show(UNIT, "MainPID", "NRestarts")
    time.sleep(4)
    assert machine.show(UNIT, "MainPID", "NRestarts") == before, "it is fed while all is well"
    machine.run(f"kill -STOP {before['MainPID']}")
    assert until(lambda: machine.show(UNIT, "NRestarts")["NRestarts"] == "1"), machine.journal(UNIT)
    machine.wait(UNIT, "SubState", "running")
    assert "Watchdog timeout" in machine.journal(UNIT)
    # The programs of the dead one were taken over, and nothing of it lives on.
    roles = status(machine)["roles"]
    assert machine.out("pgrep -c -x bwrap") == str(len(ROLES))
    assert roles["trainer"]["state"] == "running"


def test_kill_of_the_supervisor_is_a_restart(machine: Machine) -> None:
    drop_in(machine, "RestartSec=100ms")
    start(machine)
    main = machine.show(UNIT, "MainPID")["MainPID"]
    machine.run(f"kill -KILL {main}")
    assert until(lambda: machine.show(UNIT, "NRestarts")["NRestarts"] == "1"), machine.journal(UNIT)
    machine.wait(UNIT, "SubState", "running")
    assert status(machine)["state"] == "waiting"
    machine.run(f"systemctl stop {UNIT}")
    assert leftovers(machine) == ""


def test_reload_takes_what_can_change(machine: Machine) -> None:
    start(machine)
    main = machine.show(UNIT, "MainPID")["MainPID"]
    text = "[canary]\ninterval_seconds = 1.0\n[federation]\npoll_seconds = 2.0\n"
    put(machine, "/etc/homebound/conf.d/test.toml", text)
    tried = status(machine)["canary"]["time"]
    machine.run(f"systemctl reload {UNIT}")
    assert until(lambda: "new now: canary.interval_seconds" in machine.journal(UNIT)), machine.journal(UNIT)
    assert "after a restart: federation.poll_seconds" in machine.journal(UNIT)
    assert until(lambda: status(machine)["canary"]["time"] > tried), "the canary flies more often now"
    assert machine.show(UNIT, "MainPID", "ActiveState") == {"MainPID": main, "ActiveState": "active"}


def test_reload_refuses_a_wrong_configuration(machine: Machine) -> None:
    start(machine)
    main = machine.show(UNIT, "MainPID")["MainPID"]
    put(machine, "/etc/homebound/conf.d/test.toml", "[canary]\ninterval = 1.0\n")
    machine.run(f"systemctl reload {UNIT}")
    assert until(lambda: "the old one stays" in machine.journal(UNIT)), machine.journal(UNIT)
    assert "the nearest is canary.interval_seconds" in machine.journal(UNIT)
    machine.wait(UNIT, "ActiveState", "active")
    assert machine.show(UNIT, "MainPID")["MainPID"] == main


def test_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    put(machine, "/etc/homebound/conf.d/test.toml", "[data]\npath = 5\n")
    assert machine.run(f"systemctl start {UNIT}", check=False).returncode == 1
    machine.wait(UNIT, "ActiveState", "failed")
    assert machine.show(UNIT, "ExecMainStatus", "NRestarts") == {"ExecMainStatus": "78", "NRestarts": "0"}
    assert leftovers(machine) == ""


def test_another_failure_is_tried_again(machine: Machine) -> None:
    drop_in(machine, "RestartSec=100ms")
    machine.run("systemd-run --unit=squatter python3 -m http.server --bind 127.0.0.1 10977")
    assert until(lambda: machine.run("ss -ltn | grep -q :10977", check=False).returncode == 0)
    assert machine.run(f"systemctl start {UNIT}", check=False).returncode == 1
    machine.run("systemctl stop squatter")
    machine.wait(UNIT, "SubState", "running")
    assert int(machine.show(UNIT, "NRestarts")["NRestarts"]) >= 1
    assert "the metrics port 127.0.0.1:10977 cannot be had" in machine.journal(UNIT)


def test_journal_explains(machine: Machine) -> None:
    start(machine)
    shown = machine.out(f"journalctl --no-pager --catalog --unit={UNIT}")
    assert "Subject: homebound default started" in shown
    assert "The walls stand, the canary tried them, and the roles run." in shown
    entry = json.loads(machine.out(f"journalctl --output=json --unit={UNIT} HOMEBOUND_MODE=enforce"))
    assert (entry["HOMEBOUND_NAME"], entry["PRIORITY"]) == ("default", "6")


def test_key_comes_as_a_credential(machine: Machine) -> None:
    machine.run(
        "mkdir -p -m 700 /etc/credstore && cd /etc/credstore && umask 077"
        " && openssl ecparam -name secp384r1 -genkey -noout -out homebound.node_key"
    )
    start(machine)
    place = "/run/homebound/default/credentials/node_key"
    assert machine.out(f"stat -c '%U %a' {place}") == "homebound-gateway 400"
    assert machine.run(f"cmp {place} /etc/credstore/homebound.node_key").returncode == 0
    # Without one there is no copy, and the gateway makes a key of its own.
    machine.run(f"systemctl stop {UNIT} && rm -rf /etc/credstore")
    start(machine)
    assert machine.out("ls /run/homebound/default/credentials") == ""

# SPDX-License-Identifier: Apache-2.0
"""The packages on a machine: install, nothing starts; configure, train; upgrade; remove; purge leaves none.

One machine for all, in this order: each test goes on where the one before it stopped.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import ROOT
from packages import leftovers
from system.machine import CLONE, ENVIRONMENT, Machine, boot

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]
UNIT = "homebound.service"
DIST = "/srv/dist"
# Epochs: longer than a package takes to be unpacked and compiled, on this machine as on a slower one.
LONG_ROUND = 400
ROUNDS = f"PYTHONPATH={CLONE}/daemon {CLONE}/.venv/bin/python -B {CLONE}/tests/system/rounds.py"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    # The environment's commands name it by its place on the host, which the machine may hide.
    binds = {str(ROOT): CLONE, str(ROOT / "dist"): DIST, str(ROOT / ".venv"): str(ROOT / ".venv")}
    with boot(binds=binds) as machine:
        # Images for builds have it, and it forbids packages to start or stop anything.
        machine.run("rm -f /usr/sbin/policy-rc.d")
        yield machine


def install(machine: Machine, *files: str) -> str:
    words = " ".join(f"{DIST}/{file}" if "/" not in file else file for file in files)
    done = machine.run(f"apt-get install -y --no-install-recommends {words} 2>&1", seconds=200)
    return done.stdout


def files_and_folders(machine: Machine) -> set[str]:
    return leftovers.names(machine.out(leftovers.FILES))


def test_install_starts_nothing(machine: Machine) -> None:
    machine.share.joinpath("before").write_text("\n".join(sorted(files_and_folders(machine))))
    install(machine, "homebound_*.deb")
    assert machine.run(f"systemctl is-enabled {UNIT}", check=False).stdout.strip() == "disabled"
    assert machine.run(f"systemctl is-active {UNIT}", check=False).stdout.strip() == "inactive"
    assert machine.out("homebound --version").startswith("homebound ")
    assert machine.out("stat -c %U:%a /usr/lib/homebound/venv/bin/homebound") == "root:755"
    assert machine.out("getent passwd homebound-guard").endswith(":/usr/sbin/nologin")
    # Compiled once, at installation: a role could not write it.
    assert machine.out("ls /usr/lib/homebound/venv/lib/python*/site-packages/homebound/__pycache__") != ""


def test_without_configuration_it_says_what_to_do(machine: Machine) -> None:
    assert machine.run(f"systemctl start {UNIT}", check=False).returncode == 1
    assert machine.show(UNIT, "ExecMainStatus", "NRestarts") == {"ExecMainStatus": "78", "NRestarts": "0"}
    assert "/etc/homebound/homebound.toml: federation.address is missing" in machine.journal(UNIT)
    machine.run(f"systemctl reset-failed {UNIT}")


def test_manual_completion_catalog(machine: Machine) -> None:
    assert "Read FILE in place of" in machine.out("man homebound | cat")
    assert "federation.address" in machine.out("man homebound.toml | cat")
    assert "homebound_violations_total" in machine.out("man homebound-metrics | cat")
    shown = machine.out("journalctl --no-pager --dump-catalog | grep -c 'Defined-By: homebound'")
    assert int(shown) > 10
    words = "source /usr/share/bash-completion/completions/homebound; complete -p homebound"
    assert "_homebound_completion" in machine.out(words)
    asked = "COMP_WORDS='homebound led' COMP_CWORD=1 _HOMEBOUND_COMPLETE={}_complete homebound"
    assert machine.out(asked.format("bash")) == "plain,ledger"
    assert machine.out(asked.format("zsh")).splitlines()[:2] == ["plain", "ledger"]
    told = machine.out(asked.replace("CWORD=1", "CWORD=led").format("fish"))
    assert told.startswith("plain,ledger\t")


def test_trainer_trains(machine: Machine) -> None:
    install(machine, "homebound-trainer_*.deb")
    shown = json.loads(machine.run("homebound show-config --json", check=False).stdout)
    assert shown["settings"]["trainer.python"]["origin"] == "/usr/lib/homebound/conf.d/50-trainer.toml"
    done = machine.run(f"{ROUNDS} 2", check=False, seconds=250)
    assert done.returncode == 0, done.stdout + done.stderr + machine.journal(UNIT)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["verified"]
    assert result["released"]["updates"] >= 2
    assert result["violations"] == []
    # It was the package's interpreter, and its torch.
    roles = json.loads(machine.run("homebound status --json", check=False).stdout)["roles"]
    program = machine.out(f"tr '\\0' '\\n' </proc/{roles['trainer']['pid']}/cmdline | head -1")
    assert program == "/usr/lib/homebound/trainer/bin/python3"


def test_nothing_gets_out(machine: Machine) -> None:
    done = machine.run("homebound leaktest --json", check=False, seconds=120)
    channels = json.loads(done.stdout)["channels"]
    assert channels
    assert done.returncode == 0, done.stdout


def test_upgrade_restarts_and_keeps(machine: Machine) -> None:
    """A newer package over a running daemon: it runs anew, with its ledger and the administrator's file."""
    machine.run("echo '# mine' >>/etc/homebound/homebound.toml")
    _newer(machine)
    main = machine.show(UNIT, "MainPID")["MainPID"]
    before = machine.out("homebound ledger verify")
    said = machine.run(
        "DEBIAN_FRONTEND=noninteractive dpkg -i --force-confold --force-depends /root/newer.deb 2>&1",
        seconds=200,
    ).stdout
    machine.wait(UNIT, "SubState", "running")
    assert machine.show(UNIT, "MainPID")["MainPID"] != main, said
    assert machine.out("homebound ledger verify") == before
    assert machine.out("tail -1 /etc/homebound/homebound.toml") == "# mine"
    # And back again.
    machine.run(f"dpkg -i --force-downgrade --force-confold {DIST}/homebound_*.deb 2>&1", seconds=200)
    machine.wait(UNIT, "SubState", "running")
    assert machine.out("homebound ledger verify") == before


def test_upgrade_in_the_middle_of_a_round_loses_nothing(machine: Machine) -> None:
    """The round is answered with "no update", later ones train, and what was released before is whole."""
    words = machine.words(["/bin/bash", "-c", f"{ROUNDS} 3 {LONG_ROUND}"])
    with subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        assert until(lambda: released(machine) >= 1 and state_of_round(machine) == "started"), (
            machine.journal(UNIT)
        )
        entries = whole_entries(machine)
        machine.run("dpkg -i --force-confold --force-depends /root/newer.deb 2>&1", seconds=200)
        assert run.stdout is not None
        told = run.stdout.read().decode()
    assert run.returncode == 0, told + machine.journal(UNIT)
    result = json.loads(told.splitlines()[-1])
    assert result["run"]["outcome"] == "completed"
    assert result["verified"]
    assert result["violations"] == []
    assert whole_entries(machine) > entries
    assert machine.out("find /var/lib/homebound/default/gateway/outbox -type f") == ""
    machine.run(f"dpkg -i --force-downgrade --force-confold {DIST}/homebound_*.deb 2>&1", seconds=200)


def status(machine: Machine) -> dict[str, Any]:
    """Empty while nobody answers."""
    done = machine.run("homebound status --json", check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return found


def released(machine: Machine) -> int:
    return int(status(machine).get("released", {}).get("updates", 0))


def state_of_round(machine: Machine) -> str:
    return str((status(machine).get("round") or {}).get("state", ""))


def whole_entries(machine: Machine) -> int:
    """The number of entries of a ledger that is as it was written."""
    document = json.loads(machine.out("homebound ledger verify --json"))
    assert document["whole"]
    return int(document["head"]["number"])


def until(found: Callable[[], bool], seconds: float = 120.0) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not (result := found()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return result


def _newer(machine: Machine) -> None:
    """The same package with a higher version, packed quickly."""
    machine.run(
        f"dpkg-deb -R {DIST}/homebound_*.deb /root/newer"
        " && sed -i 's/^Version: .*/&+newer1/' /root/newer/DEBIAN/control"
        " && dpkg-deb -Zgzip -z1 -b /root/newer /root/newer.deb && rm -rf /root/newer",
        seconds=200,
    )


def test_remove_keeps_state_and_purge_does_not(machine: Machine) -> None:
    # The rounds of the test before wrote the file anew.
    machine.run("echo '# mine' >>/etc/homebound/homebound.toml")
    machine.run("apt-get remove -y homebound-trainer homebound 2>&1", seconds=120)
    assert machine.run(f"systemctl is-active {UNIT}", check=False).stdout.strip() == "inactive"
    assert machine.out("ls /var/lib/homebound/default/guard") != ""
    assert machine.out("tail -1 /etc/homebound/homebound.toml") == "# mine"
    machine.run("apt-get purge -y homebound-trainer homebound 2>&1", seconds=120)
    before = set(machine.share.joinpath("before").read_text().splitlines())
    deadline = time.monotonic() + 5
    while (left := files_and_folders(machine) - before) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == set()
    assert machine.run("ls -d /sys/fs/bpf/homebound /run/homebound", check=False).stdout == ""

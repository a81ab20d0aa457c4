# SPDX-License-Identifier: Apache-2.0
"""What is done inside a virtual machine, as shell commands: each function gives the text of one step."""

from __future__ import annotations

from packages.leftovers import FILES
from system.vm.conftest import PYTHON, SUPPLY, TRAINERS

UNIT = "homebound.service"
GROUP = f"/sys/fs/cgroup/system.slice/{UNIT}"
MEMORY_MAX = 1200 << 20
CPU_MAX_PERCENT = 150
# An emulated processor is ten to thirty times slower: what waits for a start waits that much longer.
UNTIL = """
until_true() { for _ in $(seq 1200); do eval "$1" && return 0; sleep 0.2; done; echo "never: $1"; return 1; }
running() { [ "$(systemctl show -P SubState homebound)" = running ]; }
trains() { homebound status --json | grep -q '"state": "waiting"'; }
"""


def facts() -> str:
    """Kernel, security modules, controllers; and what lies on the disk, kept for purge()."""
    told = "uname -r; cat /sys/kernel/security/lsm; echo; cat /sys/fs/cgroup/cgroup.controllers"
    return f"{told}; {{ {FILES}; }} >/root/before"


def install(name: str = "homebound") -> str:
    """By apt, without a network: what the package needs is there."""
    return (
        f"time apt-get install -q -y --no-install-recommends {SUPPLY}/{name}_*.deb"
        f" && systemctl is-enabled {UNIT}; systemctl is-active {UNIT}; homebound --version"
    )


def settings(trainer: str = f"{TRAINERS}/bin/python") -> str:
    """Bounds for the trainer; with an environment of the site's own unless ``trainer`` is empty."""
    python = f'python = "{trainer}"\n' if trainer else ""
    return (
        "mkdir -p /etc/homebound/conf.d && cat >/etc/homebound/conf.d/60-vm.toml <<'TOML'\n"
        f"[kernel]\nsecurity_hooks = true\n[trainer]\n{python}"
        f"memory_max_bytes = {MEMORY_MAX}\ncpu_max_percent = {CPU_MAX_PERCENT}\nTOML\n"
    )


def rounds(number: int) -> str:
    return (
        f"{PYTHON} {SUPPLY}/tests/system/rounds.py {number} || {{ journalctl -u homebound -n 50; exit 1; }}"
    )


def limits() -> str:
    return (
        f"cd {GROUP}/trainer; grep . memory.swap.max pids.max memory.max memory.oom.group cpu.max"
        "; for role in watcher guard gateway trainer; do"
        " echo $role:$(cat /proc/$(pgrep -n -u homebound-$role)/oom_score_adj); done"
    )


def hungry() -> str:
    """The trainer holds more memory than it may: what it may is lowered under it, by root.

    Whoever joined its cgroup to take more would be a violation, and ended for that.
    """
    return UNTIL + (
        f"cd {GROUP}/trainer; old=$(pgrep -n -u homebound-trainer)\n"
        "echo 64M >memory.max\n"
        f"until_true 'grep -q \"oom_group_kill [1-9]\" memory.events' && cat memory.events\n"
        f"echo {MEMORY_MAX} >memory.max\n"
        'until_true \'new=$(pgrep -n -u homebound-trainer); [ -n "$new" ] && [ "$new" != "$old" ]\''
        " && until_true trains && echo again"
    )


def busy() -> str:
    """A trainer that starts anew, which takes a lot of time, after its quota was lowered."""
    file = "/etc/homebound/conf.d/60-vm.toml"
    quota = f"sed -i 's/^cpu_max_percent.*/cpu_max_percent = {{}}/' {file}; systemctl reload homebound\n"
    return UNTIL + (
        f"cd {GROUP}/trainer\n"
        + quota.format(20)
        + "until_true 'grep -q \"^20000 \" cpu.max' && pkill -KILL -u homebound-trainer || exit 1\n"
        "until_true 'grep -q \"^nr_throttled [1-9]\" cpu.stat' && cat cpu.stat || exit 1\n"
        + quota.format(CPU_MAX_PERCENT)
        + "journalctl -u homebound -o cat | grep 'new now'; sleep 5; until_true trains"
    )


def tidy() -> str:
    """A stop that leaves nothing and has nothing to complain about; then it runs again."""
    return UNTIL + (
        f"systemctl stop homebound; [ ! -e {GROUP} ] || ls -R {GROUP}\n"
        "ls -A /run/homebound; ls -d /sys/fs/bpf/homebound\n"
        "! journalctl -u homebound -o cat | grep 'cannot tidy up'"
        " && systemctl start homebound && until_true trains"
    )


def hang() -> str:
    """The supervisor stands still and feeds no watchdog."""
    return UNTIL + (
        f"mkdir -p /etc/systemd/system/{UNIT}.d\n"
        "printf '[Service]\\nWatchdogSec=20\\nTimeoutAbortSec=1\\nRestartSec=1\\n'"
        f" >/etc/systemd/system/{UNIT}.d/vm.conf\n"
        "systemctl daemon-reload; systemctl restart homebound || exit 1\n"
        "kill -STOP $(systemctl show -P MainPID homebound)\n"
        "until_true '[ $(systemctl show -P NRestarts homebound) = 1 ]'"
        " && until_true running && until_true trains\n"
        "journalctl -u homebound -o cat | grep 'Watchdog timeout'"
    )


def killed() -> str:
    """kill -9 of the supervisor."""
    return UNTIL + (
        "before=$(systemctl show -P NRestarts homebound)\n"
        "kill -KILL $(systemctl show -P MainPID homebound)\n"
        "until_true '[ $(systemctl show -P NRestarts homebound) -gt $before ]' && until_true running"
        " && until_true trains && pgrep -c -x bwrap\n"
        f"rm -r /etc/systemd/system/{UNIT}.d; systemctl daemon-reload"
    )


def verify() -> str:
    return "homebound ledger verify"


def active() -> str:
    """The unit came up by itself."""
    return UNTIL + "until_true running && until_true trains && systemctl is-active homebound"


def train_and_tell(number: int) -> str:
    """Rounds, and the word CUT in the middle of the second one: after a release, before the next task."""
    watch = (
        "(journalctl -f -n0 -u homebound -o cat | grep -m2 'were released' | tail -1 >/dev/null; echo CUT) &"
    )
    return f"{watch}\n{rounds(number)}"


def upgrade() -> str:
    """A newer package over the running daemon, then back to the older one; what the ledger says each time."""
    options = "--force-confold --force-downgrade"
    return UNTIL + (
        "echo '# mine' >>/etc/homebound/homebound.toml; homebound ledger verify >/root/ledger || exit 1\n"
        f"for package in {SUPPLY}/newer.deb {SUPPLY}/homebound_*.deb; do\n"
        "main=$(systemctl show -P MainPID homebound)\n"
        f"dpkg -i {options} $package || exit 1\n"
        "until_true running && until_true trains || exit 1\n"
        '[ "$(systemctl show -P MainPID homebound)" != "$main" ] || exit 2\n'
        "homebound ledger verify | diff - /root/ledger || exit 3\n"
        "tail -1 /etc/homebound/homebound.toml; dpkg-query -W -f '${Version}\\n' homebound\ndone"
    )


def purge() -> str:
    """Remove, look, purge, and what is there then that was not there before."""
    return (
        "apt-get remove -q -y 'homebound*' && ls -d /var/lib/homebound/default/guard"
        " && rm -r /etc/homebound/conf.d && apt-get purge -q -y 'homebound*'"
        " && ls -d /sys/fs/bpf/homebound /run/homebound; echo; echo '== files'; " + FILES
    )

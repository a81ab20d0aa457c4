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
        f"[trainer]\n{python}memory_max_bytes = {MEMORY_MAX}\ncpu_max_percent = {CPU_MAX_PERCENT}\nTOML\n"
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
    """Something in the trainer's cgroup that wants more memory than it may have."""
    return UNTIL + (
        f"cd {GROUP}/trainer; old=$(pgrep -n -u homebound-trainer)\n"
        """sh -c 'echo $$ >cgroup.procs; exec python3 -c "bytearray(2500 << 20)"'; echo hungry:$?\n"""
        f"until_true 'grep -q \"oom_group_kill [1-9]\" memory.events' && cat memory.events\n"
        'until_true \'new=$(pgrep -n -u homebound-trainer); [ -n "$new" ] && [ "$new" != "$old" ]\''
        " && until_true trains && echo again"
    )


def busy() -> str:
    """A loop in the trainer's cgroup, after its quota was lowered while the daemon runs."""
    return UNTIL + (
        "sed -i 's/^cpu_max_percent.*/cpu_max_percent = 20/' /etc/homebound/conf.d/60-vm.toml\n"
        f"cd {GROUP}/trainer; systemctl reload homebound\n"
        "until_true 'grep -q \"^20000 \" cpu.max' || exit 1\n"
        "sh -c 'echo $$ >cgroup.procs; exec timeout 8 sh -c \"while :; do :; done\"'\n"
        "cat cpu.stat; journalctl -u homebound -n 5 -o cat"
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
        " && apt-get purge -q -y 'homebound*' && rm -f /etc/homebound/conf.d/60-vm.toml"
        " && ls -d /sys/fs/bpf/homebound /run/homebound; echo; echo '== files'; " + FILES
    )

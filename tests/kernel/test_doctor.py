# SPDX-License-Identifier: Apache-2.0
"""The doctor on a host where something is missing: it names that, and the command that mends it.

Each thing is taken away from the doctor alone, in a mount namespace; the twin sees the host as it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from homebound.kernel import bpffs

pytestmark = pytest.mark.root
LIBRARIES = "find /usr/lib -name '{}*' -type f | while read -r f; do mount --bind /dev/null $f; done"
# What is taken away, the check that names it, and a word of the command that mends it.
MISSING = {
    "bwrap": ("mount --bind /dev/null /usr/bin/bwrap", "bwrap", "apt install bubblewrap"),
    "setpriv": ("mount --bind /dev/null /usr/bin/setpriv", "setpriv", "apt install util-linux"),
    "libbpf": (LIBRARIES.format("libbpf.so.1"), "libbpf", "apt install libbpf1"),
    "libseccomp": (LIBRARIES.format("libseccomp.so.2"), "seccomp", "apt install libseccomp2"),
    "cgroup2": ("umount -a -t cgroup2", "cgroup v2", "mount -t cgroup2"),
    "bpffs": (f"while umount -q {bpffs.FOLDER}; do :; done", "bpf file system", "mount -t bpf"),
    "users": ("mount --bind /dev/null /etc/passwd", "users", "systemd-sysusers"),
    "btf": ("mount -t tmpfs none /sys/kernel/btf", "kernel types", "CONFIG_DEBUG_INFO_BTF"),
}


def examine(before: str, config: Path) -> dict[str, dict[str, str]]:
    """What the doctor says after a line of shell in a mount namespace of its own; checks by name."""
    command = [sys.executable, "-m", "homebound", "doctor", "--json", "--config", str(config)]
    words = ["unshare", "--mount", "sh", "-c", f'{before}; exec "$@"', "sh", *command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


@pytest.mark.parametrize("what", MISSING)
def test_what_is_missing_is_named_with_what_mends_it(what: str, tmp_path: Path) -> None:
    before, name, command = MISSING[what]
    found = examine(before, tmp_path / "none.toml")[name]
    assert found["result"] == "bad", found
    assert command in found["advice"]


def test_what_is_there_is_not_missed(tmp_path: Path) -> None:
    found = examine(
        f"mountpoint -q {bpffs.FOLDER} || mount -t bpf bpf {bpffs.FOLDER}", tmp_path / "none.toml"
    )
    for name in (
        "bwrap",
        "setpriv",
        "libbpf",
        "seccomp",
        "cgroup v2",
        "bpf file system",
        "run-queue wait",
        "block I/O",
    ):
        assert found[name]["result"] == "good", found[name]

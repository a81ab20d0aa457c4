# SPDX-License-Identifier: Apache-2.0
"""A machine for tests: a real systemd as PID 1 in namespaces, over an overlay of a root file system.

Nothing it changes stays. It shares the kernel, and so BPF programs and cgroups are real; it has its own
processes, mounts, network (loopback only), BPF file system and /run. By hand:
``python tests/system/machine.py [--clone] [--lower DIR] -- COMMAND`` runs COMMAND (a shell's) in one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BOOT_SECONDS = 30.0
# Where a machine made with clone=True has this clone, read-only.
CLONE = "/srv/homebound-clone"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
    "DEBIAN_FRONTEND": "noninteractive",
}
# The package as it lies in the clone, under the name that the unit calls.
COMMAND = f"""#!/bin/sh
PYTHONPATH={CLONE}/daemon exec {CLONE}/.venv/bin/python -B -m homebound "$@"
"""


@dataclass
class Machine:
    """A running machine. ``share`` is a folder of the host that it sees as /run/machine/share."""

    folder: Path
    cgroup: Path
    pid: int

    @property
    def share(self) -> Path:
        return self.folder / "share"

    def path(self, name: str) -> Path:
        """A path of the machine, reached from outside."""
        return Path(f"/proc/{self.pid}/root", name.lstrip("/"))

    def run(
        self, command: str, check: bool = True, seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root in the machine, from outside of every unit. Output is text.

        Raises AssertionError with all its output when it fails and ``check`` is set.
        """
        done = subprocess.run(
            self.words(["/bin/bash", "-c", command]),
            env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            check=False, timeout=seconds,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def out(self, command: str, seconds: float = 60.0) -> str:
        """What a command that succeeds prints."""
        return self.run(command, seconds=seconds).stdout.strip()

    def words(self, words: Sequence[str]) -> list[str]:
        """The command line that runs ``words`` in the machine."""
        visitor = self.cgroup / "visitor"
        visitor.mkdir(exist_ok=True)
        enter = f'echo $$ >{shlex.quote(str(visitor / "cgroup.procs"))} && exec "$@"'
        space = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--wdns=/"]
        return ["/bin/sh", "-c", enter, "sh", *space, *words]

    def show(self, unit: str, *names: str) -> Mapping[str, str]:
        """Properties of a unit, as systemctl(1) shows them."""
        wanted = f"--property={','.join(names)}"
        lines = self.out(f"systemctl show {wanted} {shlex.quote(unit)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait(self, unit: str, name: str, value: str, seconds: float = 30.0) -> None:
        """Wait until a property of a unit has this value."""
        deadline = time.monotonic() + seconds
        while (found := self.show(unit, name).get(name)) != value:
            if time.monotonic() > deadline:
                raise AssertionError(f"{unit}: {name} is {found}, not {value}\n{self.journal(unit)}")
            time.sleep(0.1)

    def journal(self, unit: str) -> str:
        """All lines of a unit."""
        return self.run(f"journalctl --no-pager --output=short-monotonic --unit={unit}", check=False).stdout


def _cgroup2() -> Path:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise RuntimeError("cgroup v2 is not mounted")


@contextlib.contextmanager
def boot(lower: str = "/", binds: Mapping[str, str] | None = None, clone: bool = False) -> Iterator[Machine]:
    """A machine over ``lower``. ``binds`` is folder of the host -> read-only place in the machine.

    With ``clone`` the command homebound in it is this clone's.
    """
    wanted = {**(binds or {}), **({str(ROOT): CLONE} if clone else {})}
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="machine-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name in ("upper", "root", "share"):
            (folder / name).mkdir()
        (folder / "binds").write_text("".join(f"{source} {target}\n" for source, target in wanted.items()))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4G", "tmpfs", folder / "upper"], check=True)
        stack.callback(lambda: subprocess.run(["umount", "-l", folder / "upper"], check=False))
        for name in ("changes", "work"):
            (folder / "upper" / name).mkdir()
        if clone:
            _install_command(folder / "upper/changes")
        cgroup = _cgroup2() / f"homebound-test-{os.getpid()}-{folder.name}"
        cgroup.mkdir()
        stack.callback(_remove_cgroup, cgroup)
        yield _start(stack, folder, cgroup, lower)


def _install_command(changes: Path) -> None:
    command = changes / "usr/bin/homebound"
    command.parent.mkdir(parents=True)
    command.write_text(COMMAND)
    command.chmod(0o755)


def _start(stack: contextlib.ExitStack, folder: Path, cgroup: Path, lower: str) -> Machine:
    enter = f'echo $$ >{shlex.quote(str(cgroup / "cgroup.procs"))} && exec "$@"'
    spaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation=private"]
    spaces += ["--uts", "--ipc", "--net", "--", "bash", str(HERE / "boot.sh"), str(folder), lower]
    console = stack.enter_context((folder / "console").open("w+b"))
    process = subprocess.Popen(
        ["/bin/sh", "-c", enter, "sh", *spaces],
        stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
    )  # fmt: skip
    stack.callback(_end, process, cgroup)
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        pid = _first_child(process.pid)
        if pid and _is_up(machine := Machine(folder, cgroup, pid)):
            return machine
        time.sleep(0.05)
    console.seek(0)
    raise RuntimeError(f"the machine did not boot:\n{console.read().decode(errors='replace')}")


def _first_child(pid: int) -> int:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(words[0]) if words else 0
    except OSError:
        return 0


def _is_up(machine: Machine) -> bool:
    """Whether systemd runs there and has reached its target."""
    try:
        if Path(f"/proc/{machine.pid}/comm").read_text().strip() != "systemd":
            return False
    except OSError:
        return False
    return machine.run("systemctl is-active --quiet machine.target", check=False).returncode == 0


def _end(process: subprocess.Popen[bytes], cgroup: Path) -> None:
    """Kill every process of the machine: with its PID 1 the kernel ends all others, pid_namespaces(7)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")


def _remove_cgroup(cgroup: Path) -> None:
    """Remove a tree of cgroups; the dead need a moment to leave them."""
    for _ in range(100):
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if not cgroup.exists():
            return
        time.sleep(0.05)
    raise RuntimeError(f"{cgroup} could not be removed: processes are left in it")


def main() -> int:
    """Run one command in a machine of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lower", default="/", help="root file system to lay the overlay on")
    parser.add_argument("--clone", action="store_true", help="homebound is this clone's")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    with boot(given.lower, clone=given.clone) as machine:
        return subprocess.run(
            machine.words(["/bin/bash", "-c", " ".join(given.command)]), env=ENVIRONMENT, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())

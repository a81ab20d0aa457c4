# SPDX-License-Identifier: Apache-2.0
"""A virtual machine for tests: one job a boot, on a disk that outlives it: reboots and power cuts are real.

The processor is emulated (no KVM is needed): slow, but the kernel, systemd, controllers and BPF LSM are a
device's. ``image.sh`` makes what it boots. Source: qemu(1).
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECURITY = "landlock,yama,apparmor,bpf"
KERNEL_WORDS = (
    "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 systemd.unified_cgroup_hierarchy=1 nokaslr"
    " mitigations=off tsc=reliable no_timer_check clearcpuid=141"
)
# AVX is emulated so slowly that what uses it when it is there runs faster without: an old model, whose
# features fit one another (libgcrypt takes some for granted beside others). One of them, cx16 (141), is taken
# from the kernel: with it a 6.12 crashes at its boot under QEMU 7.2. NumPy does not run without it.
# With a thread of the host for each processor, one may run on in code that another has just changed. Where
# programs are put on tracepoints and taken off, a kernel 6.12 then sooner or later meets a breakpoint that it
# has already taken away, and crashes; a 6.1 once stood still with both processors. So they take turns.
MACHINE = (
    "-accel tcg,thread=single,tb-size=512 -machine q35 -cpu Nehalem -smp 2 -m 3072 -display none"
    " -nodefaults -no-reboot -nic none -device virtio-rng-pci"
)
# The kernel has the driver of the first disk built in. Were the others of that kind, too, a kernel 6.12 would
# number them as it finds them; these are found by their serial numbers.
NAMED = "/dev/disk/by-id/virtio-d"
STUCK = re.compile("soft lockup - CPU#[0-9]+ stuck for [0-9]{3,}s")
MARK = re.compile(r"^@@ (?P<name>[a-z0-9-]+) (?P<state>begins|ends (?P<status>[0-9]+))$", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """What a step said, and its exit status; None when the machine ended before it did."""

    status: int | None
    output: str


@dataclass(frozen=True)
class Boot:
    """One life of the machine: its steps, as far as it came, and the kernel's console."""

    steps: Mapping[str, Step]
    console: str

    def out(self, name: str) -> str:
        """What a step that succeeded said. Raises AssertionError with everything when it did not."""
        step = self.steps.get(name)
        if step is None or step.status != 0:
            told = "\n".join(
                f"--- {key}: {value.status}\n{value.output}" for key, value in self.steps.items()
            )
            raise AssertionError(f"{name} did not succeed\n{told}\n--- console\n{self.console[-4000:]}")
        return step.output.strip()


@dataclass(frozen=True)
class Vm:
    """A machine whose first disk is a copy of its own, so that the image stays as it is.

    ``disks`` are images of file systems by the place where it sees them, read-only.
    """

    kernel: Path
    disk: Path
    disks: Mapping[str, Path]

    @classmethod
    def make(cls, image: Path, folder: Path, disks: Mapping[str, Path]) -> Vm:
        """``image`` is a folder of image.sh; ``folder`` must exist."""
        disk = folder / "root.img"
        subprocess.run(["cp", "--sparse=always", image / "root.img", disk], check=True)
        return cls(image / "vmlinux", disk, disks)

    def boot(
        self,
        steps: Mapping[str, str],
        seconds: float,
        cut_at: str = "",
        security: str = SECURITY,
    ) -> Boot:
        """Boot, run the steps (shell commands) in order until one fails, power off.

        With ``cut_at`` the power is cut the moment that is said. ``security``: the kernel's lsm=.
        """
        folder = Path(tempfile.mkdtemp(prefix="vm-"))
        try:
            tape = folder / "job.tar"
            files = {f"{name}.sh": text for name, text in steps.items()}
            _write_tape(tape, {**files, "job.sh": _job(steps), "disks": self._mounts()})
            with (folder / "qemu").open("wb") as log:
                words = self._words(folder, tape, security)
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            _await(process, folder, seconds, cut_at)
            return Boot(_steps(_text(folder / "out")), _text(folder / "console") + _text(folder / "qemu"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _mounts(self) -> str:
        return "".join(f"{NAMED}{number} {place}\n" for number, place in enumerate(self.disks, 2))

    def _words(self, folder: Path, tape: Path, security: str) -> list[str]:
        words = ["qemu-system-x86_64", *MACHINE.split()]
        words += ["-serial", f"file:{folder}/console", "-serial", f"file:{folder}/out"]
        # A power cut here is the end of qemu, not of the host: what qemu has written stays, what the guest
        # has in its own memory is lost. To flush the host's cache too would only cost time.
        words += _drive(0, self.disk, "nvme", "cache=unsafe")
        for number, path in enumerate([tape, *self.disks.values()], 1):
            words += _drive(number, path, "virtio-blk-pci", "readonly=on")
        return [*words, "-kernel", str(self.kernel), "-append", f"{KERNEL_WORDS} lsm={security}"]


def _drive(number: int, path: Path, kind: str, options: str) -> list[str]:
    drive = f"if=none,id=d{number},file={path},format=raw,{options}"
    return ["-drive", drive, "-device", f"{kind},drive=d{number},serial=d{number}"]


def pack(folder: Path, image: Path) -> Path:
    """A file system with the contents of a folder."""
    used = subprocess.run(["du", "-sm", folder], capture_output=True, text=True, check=True).stdout
    size = int(used.split()[0]) * 12 // 10 + 64
    words = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(folder), str(image)]
    subprocess.run([*words, f"{size}M"], check=True)
    return image


def _job(steps: Mapping[str, str]) -> str:
    lines = []
    for name in steps:
        lines += [f"echo; echo '@@ {name} begins'", f"bash /run/job/{name}.sh; status=$?"]
        lines += [f"echo; echo '@@ {name}' ends $status", "[ $status = 0 ] || exit $status"]
    return "\n".join(lines) + "\n"


def _steps(text: str) -> dict[str, Step]:
    found: dict[str, Step] = {}
    start = 0
    for mark in MARK.finditer(text):
        if mark["status"] is None:
            start = mark.end()
            found[mark["name"]] = Step(None, text[start:])
        else:
            found[mark["name"]] = Step(int(mark["status"]), text[start : mark.start()])
    return found


def _write_tape(path: Path, files: Mapping[str, str]) -> None:
    with tarfile.open(path, "w") as tape:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tape.addfile(entry, io.BytesIO(text.encode()))
    with path.open("ab") as file:
        file.truncate(-(-path.stat().st_size // (1 << 20)) << 20)


def _await(process: subprocess.Popen[bytes], folder: Path, seconds: float, cut_at: str) -> None:
    """Until it powers itself off, says ``cut_at``, stands still, or the time is up.

    Then it is killed: a power cut.
    """
    deadline = time.monotonic() + seconds
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if cut_at and cut_at in _text(folder / "out"):
                break
            if STUCK.search(_text(folder / "console")):
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()


def _text(path: Path) -> str:
    return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""

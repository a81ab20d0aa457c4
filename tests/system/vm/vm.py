# SPDX-License-Identifier: Apache-2.0
"""A virtual machine for tests: one job a boot, on a disk that outlives it: reboots and power cuts are real.

The processor is emulated (no KVM is needed): slow, but the kernel, systemd, controllers and BPF LSM are a
device's. ``image.sh`` makes what it boots. Source: qemu(1).
"""

from __future__ import annotations

import io
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
    " mitigations=off tsc=reliable no_timer_check"
)
MARK = "__STATUS="


@dataclass(frozen=True)
class Result:
    """What a job said, and its exit status; None when the machine ended before it did."""

    status: int | None
    output: str
    console: str


@dataclass(frozen=True)
class Vm:
    """A machine whose disk is a copy of its own, so that the image stays as it is."""

    kernel: Path
    disk: Path

    @classmethod
    def make(cls, image: Path, folder: Path) -> Vm:
        """``image`` is a folder of image.sh; ``folder`` must exist."""
        disk = folder / "root.img"
        subprocess.run(["cp", "--sparse=always", image / "root.img", disk], check=True)
        return cls(image / "vmlinux", disk)

    def run(
        self,
        job: str,
        seconds: float,
        cut_at: str = "",
        security: str = SECURITY,
        put: Mapping[str, str] | None = None,
    ) -> Result:
        """Boot, run ``job`` (a shell's), power off. ``put``: files by name beside it in /run/job.

        With ``cut_at`` the power is cut the moment the job has said that. ``security``: the kernel's lsm=.
        """
        folder = Path(tempfile.mkdtemp(prefix="vm-"))
        try:
            tape = folder / "job.tar"
            _write_tape(tape, {"job.sh": job, **(put or {})})
            words = self._words(folder, tape, security)
            with (folder / "qemu").open("wb") as log:
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            _await(process, folder / "out", seconds, cut_at)
            output = _text(folder / "out")
            head, mark, tail = output.rpartition(MARK)
            status = int(tail.split()[0]) if mark and tail.split() else None
            return Result(
                status, head if mark else output, _text(folder / "console") + _text(folder / "qemu")
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _words(self, folder: Path, tape: Path, security: str) -> list[str]:
        words = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-machine", "q35"]
        words += [
            "-cpu",
            "max,-avx2",
            "-smp",
            "2",
            "-m",
            "3072",
            "-display",
            "none",
            "-nodefaults",
            "-no-reboot",
        ]
        words += ["-nic", "none", "-device", "virtio-rng-pci"]
        words += ["-serial", f"file:{folder}/console", "-serial", f"file:{folder}/out"]
        # What the guest has flushed must be in the file when the power is cut: no cache of qemu's own.
        words += ["-drive", f"if=none,id=d0,file={self.disk},format=raw,cache=writeback"]
        words += ["-device", "nvme,drive=d0,serial=root"]
        words += [
            "-drive",
            f"if=none,id=d1,file={tape},format=raw,readonly=on",
            "-device",
            "nvme,drive=d1,serial=job",
        ]
        return [*words, "-kernel", str(self.kernel), "-append", f"{KERNEL_WORDS} lsm={security}"]


def _write_tape(path: Path, files: Mapping[str, str]) -> None:
    with tarfile.open(path, "w") as tape:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tape.addfile(entry, io.BytesIO(text.encode()))
    with path.open("ab") as file:
        file.truncate(-(-path.stat().st_size // (1 << 20)) << 20)


def _await(process: subprocess.Popen[bytes], output: Path, seconds: float, cut_at: str) -> None:
    """Until it powers itself off, says ``cut_at``, or the time is up; then it is killed: a power cut."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if cut_at and cut_at in _text(output):
            break
        time.sleep(0.1)
    process.kill()
    process.wait()


def _text(path: Path) -> str:
    return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""

# SPDX-License-Identifier: Apache-2.0
"""What each BPF program costs a call, and what three workloads lose by all of them. Prints; asserts no time.

Every workload runs with the programs and without them in turn, so that what else the machine does falls on
both alike; the figures are medians of processor time, which the load of others moves least. Storm and stream
run outside of the device, the training inside of it, and so does a second storm.
Run as root: PYTHONPATH=daemon:tests python tests/bench/probes_cost.py [ROUNDS [WORKLOAD...]]
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from homebound.events import Program, Role
from homebound.kernel import bpfmake, features, hooks
from homebound.kernel.bpfmake import ProgramKind
from homebound.kernel.probes import Probes
from kernel.rig import in_child, in_fresh_network, remove_cgroup

OBJECTS = Path(__file__).resolve().parents[2] / "daemon/homebound/bpf_objects"
ROUNDS = 7
STORM_BYTES, STREAM_MEGABYTES, EPOCHS = 200_000, 128, 5
AIMS = {"training": 1.0, "storm": 5.0, "stream": 2.0}
ASIDE = "bench"


@contextmanager
def device() -> Iterator[Path]:
    """A root cgroup with one for each role; removed at the end."""
    root = features.cgroup2_mounts()[0] / f"homebound-cost-{os.getpid()}"
    for role in Role:
        (root / role.label).mkdir(parents=True)
    try:
        yield root
    finally:
        remove_cgroup(root)


@contextmanager
def empty_on() -> Iterator[None]:
    """A program that does nothing at the end of every system call of the host."""
    program = bpfmake.load_program("hb_bench_empty", ProgramKind(hooks.RAW_TRACEPOINT), RETURN_0, "GPL")
    link = bpfmake.raw_tracepoint_open(program, "sys_exit")
    try:
        yield
    finally:
        os.close(link)
        os.close(program)


@contextmanager
def probes_on(root: Path, off: Mapping[Program, str], count_calls: bool) -> Iterator[Probes]:
    """The programs attached, without the kernel's statistics, which cost something themselves."""
    pins = Path("/sys/fs/bpf") / root.name
    probes = Probes.load(OBJECTS, root, 2, True, pins, off=off, count_calls=count_calls)
    for role in Role:
        if role is not Role.NONE:
            probes.assign((root / role.label).stat().st_ino, role)
    if probes.stats is not None:
        os.close(probes.stats)
        probes.stats = None
    try:
        yield probes
    finally:
        probes.remove()


def storm(root: Path) -> float:
    """Seconds for one read(2) and one write(2) a byte, as quick as dd can."""
    del root
    command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", f"count={STORM_BYTES}", "status=none"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def storm_inside(root: Path) -> float:
    """The same in the trainer's cgroup."""
    return float(in_child(lambda: storm(root), root / "trainer"))


def stream(root: Path) -> float:
    """Seconds for a TCP stream over loopback."""
    del root

    def sink(server: socket.socket) -> None:
        peer, buffer = server.accept()[0], bytearray(1 << 20)
        while peer.recv_into(buffer):
            pass
        peer.close()

    def scene() -> float:
        block = bytes(1 << 20)
        with socket.create_server(("127.0.0.1", 0)) as server:
            reader = threading.Thread(target=sink, args=(server,))
            reader.start()
            with socket.create_connection(server.getsockname()) as client:
                began = time.process_time()
                for _ in range(STREAM_MEGABYTES):
                    client.sendall(block)
            reader.join()
            return time.process_time() - began

    return float(in_fresh_network(scene))


def training(root: Path) -> float:
    """Seconds of epochs of a model as small as that of digits, in the trainer's cgroup."""
    return float(in_child(lambda: train(EPOCHS), root / "trainer"))


def train(epochs: int) -> float:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values, labels = torch.randn(1437, 64), torch.randint(0, 10, (1437,))
    began = time.process_time()
    for _ in range(epochs):
        Path("/proc/self/status").read_text()
        for start in range(0, len(values), 32):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                model(values[start : start + 32]), labels[start : start + 32]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return time.process_time() - began


WORKLOADS: Mapping[str, Callable[[Path], float]] = {
    "storm": storm, "storm inside": storm_inside, "stream": stream, "training": training,
}  # fmt: skip
# What the settings switch on.
ASKED_FOR = (Program.CALLS, Program.FILES, Program.CALL_ENTER, Program.CALL_EXIT)


def asked_for(*wanted: Program) -> Mapping[Program, str]:
    """What is left out when these are asked for."""
    return {program: ASIDE for program in ASKED_FOR if program not in wanted}


CASES: Mapping[str, tuple[Mapping[Program, str], bool]] = {
    "walls alone": ({program: ASIDE for program in Program if not program.is_required}, False),
    "by default": (asked_for(), False),
    "with hb_files": (asked_for(Program.FILES), False),
    "with hb_calls": (asked_for(Program.CALLS), True),
    "with hb_call_*": (asked_for(Program.CALL_ENTER, Program.CALL_EXIT), False),
}
# What no program on sys_exit can cost less than: one that returns 0 at once.
EMPTY = "an empty program"
RETURN_0 = b"\xb7" + bytes(7) + b"\x95" + bytes(7)


def compare(root: Path, rounds: int, wanted: Collection[str]) -> None:
    """The table of what is lost."""
    print(f"{'workload':14}{'without':>10}  ", *(f"{case:>18}" for case in (EMPTY, *CASES)), f"{'aim':>8}")
    for name, run in WORKLOADS.items():
        if name not in wanted:
            continue
        bare: list[float] = []
        slower: dict[str, list[float]] = {case: [] for case in (EMPTY, *CASES)}
        for _ in range(rounds):
            without = run(root)
            with empty_on():
                slower[EMPTY].append(run(root) / without)
            for case, (off, count_calls) in CASES.items():
                without = run(root)
                with probes_on(root, off, count_calls):
                    slower[case].append(run(root) / without)
                bare.append(without)
        lost = [f"{100 * (statistics.median(found) - 1):+.1f} %" for found in slower.values()]
        print(f"{name:14}{statistics.median(bare):10.3f} s", *(f"{text:>18}" for text in lost), end="")
        print(f"{AIMS[name]:7.0f} %" if name in AIMS else "", flush=True)


def costs(root: Path) -> None:
    """The table of the programs; the kernel's statistics add about 30 ns to each run."""
    pins = Path("/sys/fs/bpf") / root.name
    probes = Probes.load(OBJECTS, root, 2, True, pins, count_calls=False)
    try:
        probes.assign((root / "trainer").stat().st_ino, Role.TRAINER)
        storm(root)
        in_child(lambda: train(2), root / "trainer")
        print(f"{'program':20}{'runs':>10}{'ns a run':>10}")
        for state in probes.programs():
            cost = f"{state.run_seconds * 1e9 / state.runs:10.0f}" if state.runs else f"{'-':>10}"
            print(f"{state.name:20}{state.runs:10}{cost}  {state.reason}")
    finally:
        probes.remove()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with device() as root:
        import torch  # once, before anything is timed

        del torch
        compare(root, rounds, sys.argv[2:] or WORKLOADS)
        costs(root)


if __name__ == "__main__":
    main()

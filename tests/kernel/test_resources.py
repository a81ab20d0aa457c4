# SPDX-License-Identifier: Apache-2.0
"""What threads used is what the kernel itself says of them, to the unit: stat, schedstat and io in /proc,
before and after known amounts. A thread that ends while looked at counts once; outside nothing counts."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Program, Role
from homebound.kernel import maps, resources
from homebound.kernel.resources import Resources
from kernel.rig import Device, child, with_map

pytestmark = pytest.mark.root

PAGES = 1_009
PAGE = mmap.PAGESIZE
# What Python itself touches while it touches pages: its own allocations, tables for them.
SLACK_PAGES = 64
# Blocks of the file system's own that a new file makes dirty: inode, bitmaps, the folder, the journal's.
SLACK_BLOCKS = 16
THREADS = 23 * 20
SPIN_SECONDS = 0.4
DELAYS = Path("/proc/sys/kernel/task_delayacct")
NOTHING = Resources(0, 0, 0, 0, 0, 0)


@pytest.fixture
def device(device: Device) -> Device:
    """With the programs that read structs of the kernel."""
    return with_map(device, "resources")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder on a block device."""
    if os.major(tmp_path.stat().st_dev) == 0:
        pytest.skip(f"{tmp_path} is on no block device")
    return tmp_path


@dataclass(frozen=True)
class Worker:
    """A child of one thread that does one step after another and sleeps between them."""

    pid: int
    orders: int
    answers: int

    def carry_out(self, step: int) -> None:
        """Have a step done, and come back when the child sleeps again."""
        self.begin(step)
        self.wait()

    def begin(self, step: int) -> None:
        os.write(self.orders, bytes([step]))

    def wait(self) -> None:
        assert os.read(self.answers, 1), "the child ended"
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.001)
        while len(os.listdir(f"/proc/{self.pid}/task")) > 1:  # one that was joined may not be gone yet
            time.sleep(0.001)

    def used(self) -> Resources:
        """What the kernel says of its only thread. proc_pid_stat(5), proc_pid_schedstat(5), proc_pid_io(5)"""
        folder = Path(f"/proc/{self.pid}/task/{self.pid}")
        stat = (folder / "stat").read_text().rpartition(")")[2].split()
        io = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
        waited = int((folder / "schedstat").read_text().split()[1])
        faults = int(stat[7]), int(stat[9])
        return Resources(waited, *faults, int(io["read_bytes"]), int(io["write_bytes"]), 0)


@contextmanager
def worker(*steps: Callable[[], Any]) -> Iterator[Worker]:
    """A child, not in any role yet."""
    orders, ordered = os.pipe()
    answers, answered = os.pipe()

    def act() -> int:
        os.close(ordered)
        os.write(answered, b".")
        while order := os.read(orders, 1):
            steps[order[0]]()
            os.write(answered, b".")
        return 0

    with child(act) as result:
        os.close(orders)
        os.close(answered)
        pid = int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1])
        try:
            made = Worker(pid, ordered, answers)
            made.wait()
            yield made
            os.close(ordered)
            ordered = -1
            result()
        finally:
            os.close(answers)
            if ordered >= 0:
                os.close(ordered)


def enter(cgroup: Path, *workers: Worker) -> None:
    for each in workers:
        (cgroup / "cgroup.procs").write_text(str(each.pid))


def sums(device: Device) -> Mapping[Role, Resources]:
    """The roles that used something, as of now."""
    device.probes.look_at_threads()
    found = resources.read(device.probes.map_fd("resources"))
    return {role: used for role, used in found.items() if used != NOTHING}


def less(after: Resources, before: Resources) -> Resources:
    words = zip(astuple(after), astuple(before), strict=True)
    return Resources(*(high - low for high, low in words))


def plus(parts: Sequence[Resources]) -> Resources:
    return Resources(*(sum(column) for column in zip(*map(astuple, parts), strict=True)))


def astuple(used: Resources) -> tuple[int, ...]:
    return tuple(getattr(used, name) for name in Resources.__slots__)


def touch(pages: int = PAGES) -> None:
    """Each page of fresh memory once, without huge pages, which would be one fault for many."""
    with mmap.mmap(-1, pages * PAGE) as held:
        held.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(pages):
            held[page * PAGE] = 1


def spin() -> None:
    until = time.thread_time() + SPIN_SECONDS
    while time.thread_time() < until:
        pass


def test_page_faults(device: Device) -> None:
    """N pages are N faults and few more; from the entry into the role on, not before."""
    with worker(touch) as one:
        one.carry_out(0)
        before = one.used()
        enter(device.of(Role.TRAINER), one)
        assert sums(device).get(Role.TRAINER, NOTHING).minor_faults == 0
        one.carry_out(0)
        used = less(one.used(), before)
        found = sums(device)
        print(f"{PAGES} pages touched: {used.minor_faults} minor faults")
        assert PAGES <= used.minor_faults <= PAGES + SLACK_PAGES
        assert found == {Role.TRAINER: used}


def test_run_queue_wait(device: Device) -> None:
    """Two that share a processor wait, to the nanosecond as the kernel says; about as long as they run."""
    processor = min(os.sched_getaffinity(0))

    def pin() -> None:
        os.sched_setaffinity(0, {processor})

    with ExitStack() as held:
        both = [held.enter_context(worker(pin, spin)) for _ in range(2)]
        enter(device.of(Role.GUARD), *both)
        for each in both:
            each.carry_out(0)
        before = [each.used() for each in both]
        start = sums(device).get(Role.GUARD, NOTHING)
        for each in both:
            each.begin(1)
        for each in both:
            each.wait()
        used = plus([less(each.used(), then) for each, then in zip(both, before, strict=True)])
        found = less(sums(device)[Role.GUARD], start)
        print(f"two ran {SPIN_SECONDS} s each on one processor and waited {used.run_queue_ns / 1e9:.3f} s")
        assert found == used
        assert used.run_queue_ns > 0, "nobody waited: the test shows nothing"


def test_block_bytes(device: Device, disk: Path) -> None:
    """A file written through is N bytes and few blocks more, and N bytes when it is read from the disk.

    By the supervisor, whom programs on security hooks, where there are some, let write to a disk.
    """
    path, size = disk / "file", PAGES * PAGE

    def write() -> None:
        with path.open("wb") as file:
            file.write(bytes(size))
            os.fsync(file.fileno())

    def forget() -> None:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    with worker(write, forget, path.read_bytes) as one:
        enter(device.of(Role.SUPERVISOR), one)
        device.probes.look_at_threads()
        before = one.used()
        one.carry_out(0)
        written = less(one.used(), before)
        assert sums(device)[Role.SUPERVISOR].write_bytes == written.write_bytes
        assert size <= written.write_bytes <= size + SLACK_BLOCKS * PAGE
        one.carry_out(1)
        before = one.used()
        one.carry_out(2)
        taken = less(one.used(), before)
        assert taken.read_bytes == size, "it was not read from the disk, or more was"
        assert sums(device)[Role.SUPERVISOR].read_bytes == one.used().read_bytes


def test_wait_for_block_devices(device: Device, disk: Path) -> None:
    """As the kernel says, in ticks of a hundredth of a second; only where the host counts delays."""
    if not DELAYS.exists() or DELAYS.read_text().strip() != "1":
        pytest.skip("the host counts no delays: sysctl kernel.task_delayacct=1")
    path = disk / "file"
    path.write_bytes(os.urandom(PAGES * PAGE))

    def take() -> None:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        for _ in range(23):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.pread(fd, PAGES * PAGE, 0)

    with worker(take) as one:
        enter(device.of(Role.TRAINER), one)
        one.carry_out(0)
        stat = Path(f"/proc/{one.pid}/task/{one.pid}/stat").read_text().rpartition(")")[2].split()
        waited = sums(device)[Role.TRAINER].block_wait_ns
        print(f"waited {waited / 1e6:.1f} ms for {23 * PAGES * PAGE >> 20} MiB")
        assert waited > 0
        assert waited * os.sysconf("SC_CLK_TCK") // 10**9 == int(stat[39])


def test_a_thread_that_ends_counts_to_its_end(device: Device) -> None:
    """Threads that no look ever saw alive, in a cgroup below the role's."""
    (device.of(Role.TRAINER) / "below").mkdir()

    def threads() -> None:
        for _ in range(23):
            thread = threading.Thread(target=touch)
            thread.start()
            thread.join()

    with worker(threads) as one:
        enter(device.of(Role.TRAINER) / "below", one)
        one.carry_out(0)
        found = resources.read(device.probes.map_fd("resources"))[Role.TRAINER]
        assert found.minor_faults >= 23 * PAGES
    found = sums(device)[Role.TRAINER]
    assert 23 * PAGES <= found.minor_faults <= 23 * (PAGES + SLACK_PAGES) + 10 * SLACK_PAGES


def test_ending_while_looked_at_counts_once(device: Device, disk: Path) -> None:
    """Threads that each make one page dirty and end, in a storm of looks: as many pages as threads."""
    path, size = disk / "file", THREADS * PAGE
    with path.open("wb") as file:
        file.write(bytes(size))
        os.fsync(file.fileno())
    fd = os.open(path, os.O_RDWR)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def one_page(number: int) -> None:
        os.pwrite(fd, b"x", number * PAGE)

    def threads() -> None:
        for number in range(THREADS):
            thread = threading.Thread(target=one_page, args=(number,))
            thread.start()
            thread.join()

    with worker(threads) as one:
        enter(device.of(Role.TRAINER), one)
        looks, last, done = 0, 0, threading.Event()
        one.begin(0)

        def wait() -> None:
            one.wait()
            done.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not done.is_set():
            seen = sums(device).get(Role.TRAINER, NOTHING).write_bytes
            assert seen >= last, "a sum fell"
            last, looks = seen, looks + 1
        waiting.join()
        found = sums(device)[Role.TRAINER].write_bytes
        print(f"{THREADS} threads ended during {looks} looks: {found / PAGE:.0f} pages")
        assert looks > 23
        # One inode block more: whoever wrote first changed the file's time.
        assert size <= found <= size + 2 * PAGE
    os.close(fd)
    states = maps.read_program_state(device.probes.map_fd("program_state"))
    assert {program for program in Program if states[program].failed_lookups} == set()


def test_a_move_divides_what_was_used(device: Device) -> None:
    """Before it counts to the role before, after it to the role after; outside of roles to nobody."""
    home = device.cgroup.parent
    with worker(touch) as one:
        at_first = one.used()
        enter(device.of(Role.TRAINER), one)
        one.carry_out(0)
        device.probes.look_at_threads()
        one.carry_out(0)
        then = one.used()
        enter(device.of(Role.GUARD), one)
        wanted = {Role.TRAINER: less(then, at_first)}
        assert sums(device) == wanted
        one.carry_out(0)
        wanted[Role.GUARD] = less(one.used(), then)
        enter(home, one)
        one.carry_out(0)
        assert sums(device) == wanted
        enter(device.of(Role.GUARD), one)
        assert sums(device) == wanted
    assert set(sums(device)) == {Role.TRAINER, Role.GUARD}


def test_outside_of_the_device_nothing_counts(device: Device) -> None:
    """The same work as a process of the host, and below the device in no role."""
    with worker(touch) as one:
        one.carry_out(0)
        assert sums(device) == {}
    with worker(touch) as one:
        enter(device.of(Role.NONE), one)
        one.carry_out(0)
        assert sums(device) == {}

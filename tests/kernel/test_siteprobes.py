# SPDX-License-Identifier: Apache-2.0
"""Probes of a site's own: the three examples see what really happens; what may not be one is refused."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Role
from homebound.kernel import bccchild, bpf, maps, pins, siteplan
from homebound.kernel.siteplan import Plan
from homebound.rooms.siteprobes import CHILD
from kernel.rig import child, in_child, in_fresh_network

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/probes"
INCLUDE = ROOT / "bpf/include"
SHOTS = 23
COUNTER = '[[metric]]\nmap = "counts"\nname = "x_total"\nhelp = "Shots."\n'
# Counts in element 0 whatever it is attached to; the rest is put in.
SOURCE = """
#include "dialect.bpf.h"
HB_MAP(counts, PERCPU_ARRAY, 1, 0, __u32, __u64);
SEC("%s")
int seen(void *ctx)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&counts, &zero);

	if (count)
		__sync_fetch_and_add(count, 1);
	%s
}
char _license[] SEC("license") = "GPL";
"""


@dataclass(frozen=True)
class Site:
    """A folder of probes, and what came of it."""

    folder: Path
    pins: Path
    cgroup: Path

    def write(self, name: str, section: str, end: str = "return 0;", toml: str = COUNTER) -> None:
        (self.folder / f"{name}.c").write_text(SOURCE % (section, end))
        (self.folder / f"{name}.toml").write_text(toml)

    def copy(self, name: str) -> None:
        for ending in ("c", "toml"):
            shutil.copy(EXAMPLES / f"{name}.{ending}", self.folder)

    def load(self) -> tuple[dict[str, str], list[Plan], int]:
        """Reasons by name ("" for what is loaded), plans, and how many series were cut."""
        places = {"": self.cgroup, "gateway": self.cgroup / "gateway"}
        fds = {name: os.open(path, os.O_RDONLY) for name, path in places.items()}
        order = {"folder": str(self.folder), "include": str(INCLUDE), "pins": str(self.pins), "cgroups": fds}
        try:
            answer = bccchild.run(CHILD, order, tuple(fds.values()))
        finally:
            for fd in fds.values():
                os.close(fd)
        reasons = {state["name"]: state["reason"] for state in answer["probes"]}
        return reasons, list(siteplan.from_document(answer["plans"])), answer["cut"]

    def counts(self, name: str, map_name: str) -> Sequence[int]:
        """Every element of a map, read as the watcher reads it."""
        fd = bpf.open_pin(self.pins / name / "maps" / map_name, bpf.F_RDONLY)
        try:
            return maps.read_counts(fd, bpf.map_info(fd).max_entries)
        finally:
            os.close(fd)


@pytest.fixture
def site(tmp_path: Path, bpf_file_system: Path, device_cgroup: Path) -> Iterator[Site]:
    """An empty folder of probes; what they left pinned is removed."""
    (tmp_path / "probes.d").mkdir(mode=0o755)
    place = bpf_file_system / f"{device_cgroup.name}-site"
    place.mkdir()
    yield Site(tmp_path / "probes.d", place, device_cgroup)
    pins.remove(place.parent, (place.name,))


def test_run_queue_latency(site: Site) -> None:
    """A pair that hands a byte there and back is woken each time, and waits for its processor."""
    site.copy("run_queue")
    reasons, (plan,), cut = site.load()
    assert (reasons, cut) == ({"run_queue": ""}, 0)
    assert plan.metrics[0].name == "homebound_site_run_queue_seconds"
    near, far = os.pipe(), os.pipe()

    def echo() -> int:
        for _ in range(SHOTS):
            os.write(far[1], os.read(near[0], 1))
        return SHOTS

    before = site.counts("run_queue", "waits")
    with child(echo) as result:
        for _ in range(SHOTS):
            os.write(near[1], b"!")
            os.read(far[0], 1)
        assert result() == SHOTS
    after = site.counts("run_queue", "waits")
    assert sum(after[:-1]) - sum(before[:-1]) >= SHOTS
    assert after[-1] > before[-1]


def test_block_io_latency(site: Site, tmp_path: Path) -> None:
    """Writes past the page cache reach a disk, if there is one below this folder."""
    site.copy("block_io")
    reasons, _, _ = site.load()
    assert reasons == {"block_io": ""}
    page = mmap.mmap(-1, mmap.PAGESIZE)
    page.write(b"x" * mmap.PAGESIZE)
    try:
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_SYNC)
    except OSError as error:
        pytest.skip(f"no direct writes to {tmp_path}: {error.strerror}")
    before = site.counts("block_io", "times")
    try:
        for shot in range(SHOTS):
            os.pwrite(fd, page, shot * mmap.PAGESIZE)
    finally:
        os.close(fd)
    after = site.counts("block_io", "times")
    if not any(Path("/sys/block").iterdir()):
        pytest.skip("this machine has no block device")
    assert sum(after[:-1]) - sum(before[:-1]) >= SHOTS
    assert after[-1] > before[-1]


def test_retransmits_of_the_gateway(site: Site) -> None:
    """A peer that goes away in the middle: what the gateway sent is sent again. Others do not count."""
    site.copy("gateway_retransmits")
    reasons, (plan,), _ = site.load()
    assert reasons == {"gateway_retransmits": ""}
    assert plan.metrics[0].combinations() == [("segment",), ("timeout",)]

    def lossy(cgroup: Path) -> Any:
        def scene() -> Any:
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]

                def talk() -> str:
                    with socket.create_connection(("127.0.0.1", port)) as client:
                        assert client.recv(1) == b"!"
                        client.sendall(bytes(5000))
                        return client.recv(1).decode()

                with child(talk, cgroup) as result:
                    peer = server.accept()[0]
                    _drop_all(peer)
                    peer.send(b"!")
                    time.sleep(1.0)  # several retransmission timeouts (200 ms and doubling)
                    peer.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER
                    received = 0
                    while received < 5000:
                        received += len(peer.recv(1 << 16))
                    peer.send(b"?")
                    peer.close()
                    return result()

        return in_fresh_network(scene)

    assert lossy(site.cgroup / "watcher") == "?"
    assert list(site.counts("gateway_retransmits", "again")) == [0, 0]
    assert lossy(site.cgroup / "gateway") == "?"
    segments, timeouts = site.counts("gateway_retransmits", "again")
    assert segments >= timeouts >= 1


def _drop_all(peer: socket.socket) -> None:
    """A classic BPF filter that returns 0: the receiver's kernel drops every packet of this socket."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    filter_of_one = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
    peer.setsockopt(socket.SOL_SOCKET, 26, filter_of_one)  # SO_ATTACH_FILTER


def test_a_probe_decides_nothing(site: Site) -> None:
    """A program that returns 0, which would drop every packet, sees them all pass."""
    site.write("dropper", "cgroup_skb/egress", "return 0;")
    reasons, _, _ = site.load()
    assert reasons == {"dropper": ""}

    def scene() -> Any:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(2)
            address = receiver.getsockname()

            def send() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    for _ in range(SHOTS):
                        sender.sendto(b"x", address)

            in_child(send, site.cgroup / Role.WATCHER.label)
            return sum(len(receiver.recv(9)) for _ in range(SHOTS))

    assert in_fresh_network(scene) == SHOTS
    assert list(site.counts("dropper", "counts")) == [SHOTS]


REFUSED = {
    "acts": ("raw_tp/sys_enter", "bpf_send_signal(9); return 0;", COUNTER, "calls function 109"),
    "nowhere": ("raw_tp/no_such_place", "return 0;", COUNTER, "No such file"),
    "connects": ("cgroup/connect4", "return 1;", COUNTER, "may not hang on cgroup/connect4"),
    "decides": ("lsm/file_open", "return 0;", COUNTER, "may not hang on lsm/file_open"),
    "wild": ("raw_tp/sys_enter", "return *(volatile int *)8;", COUNTER, "invalid mem access"),
    "unwritten": ("raw_tp/sys_enter", "return nonsense;", COUNTER, "unwritten.c:12:"),
    "no_map": ("raw_tp/sys_enter", "return 0;", COUNTER.replace("counts", "other"), "has no map other"),
    "too_many": (
        "raw_tp/sys_enter",
        "return 0;",
        COUNTER + 'labels = { a = ["1", "2"] }',
        "1 elements and not 2",
    ),
    "no_such_key": ("raw_tp/sys_enter", "return 0;", "colour = 3", "colour is not a key"),
}


def test_what_is_refused_stands_alone(site: Site) -> None:
    """Each has its reason and leaves nothing; the good one among them is loaded."""
    for name, (section, end, toml, _) in REFUSED.items():
        site.write(name, section, end, toml.replace("x_total", f"{name}_total"))
    site.write("good", "raw_tp/sys_enter")
    site.write("twin", "raw_tp/sys_enter")
    (site.folder / "alone.c").write_text("")
    reasons, plans, _ = site.load()
    assert set(reasons) == {*REFUSED, "good", "twin", "alone"}
    for name, (_, _, _, reason) in REFUSED.items():
        assert reason in reasons[name], name
        assert "\n" not in reasons[name]
    assert "alone.toml is missing" in reasons["alone"]
    assert "homebound_site_x_total is a metric of another probe" in reasons["twin"]
    assert reasons["good"] == ""
    assert [plan.name for plan in plans] == ["good"]
    assert [path.name for path in site.pins.iterdir()] == ["good"]
    assert site.counts("good", "counts")[0] > 0


def test_files_that_others_may_write_are_refused(site: Site) -> None:
    """By owner, by mode, by the folder's mode, and a link in a file's place."""
    for name in ("owned", "group", "world", "linked", "fine"):
        site.write(name, "raw_tp/sys_enter", toml=COUNTER.replace("x_total", f"{name}_total"))
    os.chown(site.folder / "owned.c", 60601, 0)
    (site.folder / "group.toml").chmod(0o664)
    (site.folder / "world.c").chmod(0o646)
    (site.folder / "linked.c").rename(site.folder.parent / "elsewhere.c")
    (site.folder / "linked.c").symlink_to(site.folder.parent / "elsewhere.c")
    reasons, _, _ = site.load()
    assert reasons.pop("fine") == ""
    assert "is no regular file" in reasons.pop("linked")
    assert all("may be written by others than root" in reason for reason in reasons.values())
    assert sorted(reasons) == ["group", "owned", "world"]
    pins.remove(site.pins, ("fine",))
    site.folder.chmod(0o777)
    reasons, _, _ = site.load()
    assert all("may be written by others" in reason for reason in reasons.values())


def test_beyond_the_ceiling_is_cut(site: Site) -> None:
    """The probe is loaded; the metric that is too wide for the device is not shown, and counted."""
    wide = "labels = { which = [" + ", ".join(f'"{number}"' for number in range(siteplan.SERIES_MAX)) + "] }"
    for name, toml in (("a_wide", COUNTER + wide), ("b_small", COUNTER.replace("x_total", "small_total"))):
        site.write(name, "raw_tp/sys_enter", toml=toml)
    path = site.folder / "a_wide.c"
    path.write_text(path.read_text().replace("PERCPU_ARRAY, 1,", f"PERCPU_ARRAY, {siteplan.SERIES_MAX},"))
    reasons, plans, cut = site.load()
    assert set(reasons.values()) == {""}
    assert [[metric.name for metric in plan.metrics] for plan in plans] == [["homebound_site_x_total"], []]
    assert cut == 1

# SPDX-License-Identifier: Apache-2.0
"""Upgrade and downgrade: what another version pinned is replaced without a gap, and nothing of it is left.

The other versions are built here from our sources with other layouts: an older one with a program that is no
more and smaller maps, a newer one with larger values, another program, and pins in places unknown to us.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Program, Role
from homebound.kernel import libbpf
from homebound.kernel.probes import Probes, missing
from homebound.structs import SettingsRecord
from kernel.conftest import ROOT
from kernel.rig import child, in_child
from kernel.test_probes import LEVEL, may_make_a_socket

pytestmark = pytest.mark.root

MORE = """
SEC("cgroup/%s")
int hb_%s(struct bpf_sock *sock)
{
	hb_count_failure(HB_PROGRAM_SOCK_CREATE);
	return sock->family == AF_INET;
}
"""
ODD = {"older": "hb_make_socket", "newer": "hb_bind4"}
# By version: file -> what is replaced in it; "" is the end of the file.
CHANGES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "older": {
        "sockets.bpf.c": ("", MORE % ("sock_create", "make_socket")),
        "include/shape.h": ("#define HB_SYSCALLS_MAX 512", "#define HB_SYSCALLS_MAX 480"),
        "include/maps.bpf.h": ("256 * 1024", "64 * 1024"),
    },
    "newer": {
        "sockets.bpf.c": ("", MORE % ("post_bind4", "bind4")),
        "include/homebound.h": ("__u64 failed_lookups;", "__u64 failed_lookups;\n\t__u64 retried;"),
        "include/maps.bpf.h": ("256 * 1024", "512 * 1024"),
    },
}


def build(folder: Path, version: str) -> Path:
    """Objects of another version."""
    sources, objects = folder / "bpf", folder / "objects"
    shutil.copytree(ROOT / "bpf", sources)
    for name, (old, new) in CHANGES[version].items():
        text = (sources / name).read_text()
        assert old in text, f"{name} has changed: {old}"
        (sources / name).write_text(text.replace(old, new) if old else text + new)
    subprocess.run(["make", "-s", "-C", str(sources), f"OUT={objects}"], check=True)
    return objects


def attach_unknown(objects: Path, cgroup: Path, pins: Path, name: str) -> None:
    """The program that our version does not know; pinned as that version would."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with libbpf.Library.open() as library, library.open_object(objects / "sockets.bpf.o") as opened:
            opened.keep_only([name])
            opened.set_settings(bytes(SettingsRecord(LEVEL, 1, 0, 0)))
            opened.load()
            opened.attach(name, fd, pins / "programs" / name, pins / "links" / name)
    finally:
        os.close(fd)


def attached(cgroup: Path) -> list[str]:
    """Programs on a cgroup, by the kernel's word; each as often as it is attached."""
    words = ["bpftool", "cgroup", "list", str(cgroup)]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in text.split() if name.startswith("hb_"))


@pytest.mark.parametrize("version", list(CHANGES))
def test_pins_of_another_version(
    version: str, objects: Path, bpf_file_system: Path, device_cgroup: Path, tmp_path: Path
) -> None:
    pins = bpf_file_system / device_cgroup.name
    built = build(tmp_path, version)
    other = Probes.load(built, device_cgroup, LEVEL, True, pins)
    odd = ODD[version]
    attach_unknown(built, device_cgroup, pins, odd)
    inside = device_cgroup / Role.TRAINER.label
    flag = tmp_path / "stop"

    def hammer() -> Any:
        tried = escaped = 0
        while not flag.exists():
            tried += 1
            escaped += may_make_a_socket()
        return tried, escaped

    try:
        assert odd in attached(device_cgroup), "the control: it is another version"
        if version == "newer":
            place_unknown_pins(pins)
        other.close()  # as a daemon that was killed: only the pins hold
        with child(hammer, inside) as result:
            probes = Probes.load(objects, device_cgroup, LEVEL, True, pins)
            for role in Role:
                if role is not Role.NONE:
                    probes.assign((device_cgroup / role.label).stat().st_ino, role)
            assert in_child(may_make_a_socket, device_cgroup / Role.GATEWAY.label) is True
            flag.touch()
            tried, escaped = result()
        assert tried > 0
        assert escaped == 0
        assert missing(probes.programs()) == []
        assert sorted(path.name for path in pins.iterdir()) == ["links", "maps", "programs"]
        now = attached(device_cgroup)
        required = {program.bpf_name for program in Program if program.is_required}
        assert set(now) >= required - {Program.SYSCALL_EXIT.bpf_name}
        assert odd not in now
        assert len(now) == len(set(now)), "each is there once"
        probes.remove()
        assert attached(device_cgroup) == []
        assert not pins.exists()
    finally:
        flag.touch()
        other.close()
        if pins.exists():
            Probes.load(objects, device_cgroup, LEVEL, True, pins).remove()


def place_unknown_pins(pins: Path) -> None:
    """A map pinned beside the folders that we know, and one in a folder that we do not."""
    (pins / "windows").mkdir()
    for path in (pins / "ticket", pins / "windows/day"):
        kind = ["type", "array", "key", "4", "value", "4", "entries", "1", "name", f"t{os.getpid()}"]
        subprocess.run(["bpftool", "map", "create", str(path), *kind], check=True)

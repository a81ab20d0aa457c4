# SPDX-License-Identifier: Apache-2.0
"""Two loaders, one source: the same maps and programs by either, and what comes of a fault in one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homebound.events import Role, Rule
from homebound.kernel import bccchild, bpf, maps
from homebound.kernel.bccchild import LoaderError
from homebound.kernel.job import Loader
from homebound.kernel.libbpf import LibbpfError, Library
from homebound.kernel.loading import SOURCES
from homebound.kernel.probes import OBJECTS, Probes
from homebound.kernel.sources import PROGRAM
from kernel.rig import in_child, unattached
from kernel.test_probes import may_make_a_socket

pytestmark = pytest.mark.root

LEVEL = 2
BPF = Path(__file__).resolve().parents[2] / "bpf"
Load = Callable[..., Probes]


@pytest.fixture
def folder(tmp_path: Path, objects: Path) -> Path:
    """A copy of objects and text, to be spoilt."""
    shutil.copytree(objects, tmp_path / objects.name)
    shutil.copytree(objects.with_name(SOURCES), tmp_path / SOURCES)
    return tmp_path / objects.name


@pytest.fixture
def load(bpf_file_system: Path, device_cgroup: Path) -> Iterator[Load]:
    """Load into the device's cgroup; removed at the end."""
    pins, made = bpf_file_system / device_cgroup.name, []

    def one(objects: Path, loader: Loader, compiled: Path | None = None) -> Probes:
        probes = Probes.load(objects, device_cgroup, LEVEL, True, pins, loader=loader, compiled=compiled)
        made.append(probes)
        probes.assign((device_cgroup / "trainer").stat().st_ino, Role.TRAINER)
        return probes

    yield one
    for probes in made[:-1]:
        probes.close()
    for probes in made[-1:]:
        probes.remove()
    if pins.exists():
        pins.rmdir()


def shapes(probes: Probes) -> dict[str, bpf.MapInfo]:
    return {name: bpf.map_info(fd) for name, fd in probes.maps.items()}


def blocks(cgroup: Path) -> bool:
    """Whether the trainer gets no socket."""
    return in_child(may_make_a_socket, cgroup / "trainer") is False


def spoil(folder: Path, name: str) -> None:
    """Build an object that libbpf takes and the verifier does not: it reads where nothing is."""
    spoilt, out = folder.parent / "spoilt", folder.parent / "out"
    shutil.copytree(BPF, spoilt)
    path = spoilt / f"{name}.bpf.c"
    text = path.read_text()
    at = text.index("{\n", text.index('SEC("')) + 2
    path.write_text(f"{text[:at]}\tif (*(volatile int *)8)\n\t\treturn 1;\n{text[at:]}")
    command = ["make", "-s", "-C", str(spoilt), f"OUT={out}", f"TEXT={out}"]
    subprocess.run([*command, f"{out}/{name}.bpf.o"], check=True)
    shutil.copy(out / f"{name}.bpf.o", folder)


def test_both_make_the_same_maps(objects: Path, load: Load, kept: Path) -> None:
    """Name, key, value and number of elements of every shared map."""
    found = {}
    loaders: tuple[Loader, ...] = ("libbpf", "bcc")
    for loader in loaders:
        probes = load(objects, loader, kept)
        assert probes.loader == loader
        assert unattached(probes) == {}
        found[loader] = shapes(probes)
    assert found["libbpf"].items() >= found["bcc"].items()
    assert found["libbpf"].keys() - found["bcc"].keys() == {
        "members", "processes", "armed", "mount_area", "opens", "resources",
    }  # fmt: skip


def test_both_find_the_same_programs(objects: Path) -> None:
    """What is read out of the text as programs is what libbpf finds in the objects."""
    for name in OBJECTS:
        text = (objects.with_name(SOURCES) / f"{name}.bpf.c").read_text()
        with Library.open() as library, library.open_object(objects / f"{name}.bpf.o") as opened:
            assert {found for _, found in PROGRAM.findall(text)} == set(opened.programs())


def test_no_compiler_stays(objects: Path, load: Load, device_cgroup: Path) -> None:
    """bcc and its compiler were in a child, which has ended; the programs hold."""
    load(objects, "bcc")
    assert "bcc" not in sys.modules
    assert "libbcc" not in Path("/proc/self/maps").read_text()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if "bccload" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert blocks(device_cgroup)


def test_folders_may_be_relative(
    folder: Path, load: Load, device_cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bcc works in a folder of its own choice; what was named from here is found all the same."""
    monkeypatch.chdir(folder.parent)
    load(Path(folder.name), "bcc")
    assert blocks(device_cgroup)


def test_a_file_that_does_not_compile_falls_out_alone(folder: Path, load: Load, device_cgroup: Path) -> None:
    """Its programs have the compiler's first complaint, with the line; the others stand."""
    path = folder.with_name(SOURCES) / "syscalls.bpf.c"
    path.write_text(path.read_text().replace("long result = ctx->args[1];", "long result = nonsense;"))
    reasons = unattached(load(folder, "bcc"))
    assert set(reasons) == {"hb_syscall_exit"}
    assert "syscalls.bpf.c:" in reasons["hb_syscall_exit"]
    assert "nonsense" in reasons["hb_syscall_exit"]
    assert blocks(device_cgroup)


def test_a_hook_that_is_not_there_falls_out_alone(folder: Path, load: Load, device_cgroup: Path) -> None:
    """A program without a place is told by name; one that the verifier refuses is, too, with its words."""
    path = folder.with_name(SOURCES) / "syscalls.bpf.c"
    path.write_text(path.read_text().replace('SEC("raw_tp/sys_exit")', 'SEC("raw_tp/no_such_place")'))
    path = folder.with_name(SOURCES) / "sockets.bpf.c"
    text = path.read_text()
    at = text.index("{\n", text.index("int hb_connect6(")) + 2
    path.write_text(f"{text[:at]}\tif (*(volatile int *)8)\n\t\treturn 1;\n{text[at:]}")
    reasons = unattached(load(folder, "bcc"))
    assert set(reasons) == {"hb_syscall_exit", "hb_connect6"}
    assert reasons["hb_syscall_exit"] == "raw_tp/no_such_place: bpf(2): No such file or directory"
    assert "invalid mem access" in reasons["hb_connect6"]
    assert blocks(device_cgroup)


def test_auto_takes_libbpf(objects: Path, load: Load) -> None:
    """And starts no compiler: bcc's text is not even there."""
    probes = load(objects, "auto")
    assert (probes.loader, unattached(probes)) == ("libbpf", {})


@pytest.mark.parametrize("fault", ["refused", "unreadable"])
def test_auto_turns_to_bcc(fault: str, folder: Path, load: Load, device_cgroup: Path) -> None:
    """An object that this kernel refuses, or that libbpf cannot read: bcc makes all of them."""
    if fault == "refused":
        spoil(folder, "sockets")
        assert set(unattached(load(folder, "libbpf"))) == {"hb_sock_create"}
    else:
        (folder / "sockets.bpf.o").write_bytes(b"\x7fELF nothing")
        with pytest.raises(LibbpfError):
            load(folder, "libbpf")
    probes = load(folder, "auto")
    assert (probes.loader, unattached(probes)) == ("bcc", {})
    assert sorted(path.name for path in probes.pins.iterdir()) == ["links", "maps", "programs"]
    assert blocks(device_cgroup)


def test_auto_does_not_ask_bcc_for_what_it_cannot(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that reads structs of the kernel: no compiler is started for it."""
    spoil(folder, "processes")
    monkeypatch.setattr(bccchild, "load", lambda *_: pytest.fail("bcc was asked"))
    probes = load(folder, "auto")
    assert probes.loader == "libbpf"
    assert len(unattached(probes)) == 1


def test_auto_keeps_libbpf_when_bcc_is_no_better(folder: Path, load: Load, device_cgroup: Path) -> None:
    """bcc leaves the same programs out: what libbpf made is brought back, attached all the while."""
    spoil(folder, "syscalls")
    path = folder.with_name(SOURCES) / "syscalls.bpf.c"
    path.write_text(path.read_text().replace("long result = ctx->args[1];", "long result = nonsense;"))
    probes = load(folder, "auto")
    assert probes.loader == "libbpf"
    assert set(unattached(probes)) == {"hb_syscall_exit"}
    assert sorted(path.name for path in probes.pins.iterdir()) == ["links", "maps", "programs"]
    assert blocks(device_cgroup)


def test_without_bcc(
    folder: Path, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device_cgroup: Path
) -> None:
    """Where bcc is not installed, bcc says so in one line, and auto says both."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without/bcc.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/without{os.pathsep}{os.environ['PYTHONPATH']}")
    with pytest.raises(LoaderError) as caught:
        load(folder, "bcc")
    assert caught.value.hint == "install the package python3-bpfcc"
    (folder / "sockets.bpf.o").write_bytes(b"\x7fELF nothing")
    with pytest.raises(LibbpfError, match="nor does bcc"):
        load(folder, "auto")
    assert not blocks(device_cgroup)  # nothing was left


def test_a_child_that_fails_is_one_line(tmp_path: Path) -> None:
    """Whatever it says, and when it says nothing."""
    with pytest.raises(LoaderError, match="No module named"):
        bccchild.run("homebound.kernel.nothing", {})
    with pytest.raises(LoaderError, match="failed") as caught:
        bccchild.run("homebound.kernel.bccload", {"no": "order"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loaders", [("libbpf", "bcc"), ("bcc", "libbpf")])
def test_a_restart_changes_the_loader(
    loaders: tuple[Loader, Loader], objects: Path, load: Load, device_cgroup: Path, kept: Path
) -> None:
    """One daemon with one, the next with the other: the newer counts, the older is gone."""
    load(objects, loaders[0], kept).close()
    probes = load(objects, loaders[1], kept)
    assert unattached(probes) == {}
    assert sorted(path.name for path in probes.pins.iterdir()) == ["links", "maps", "programs"]
    assert blocks(device_cgroup)
    assert maps.read_denied(probes.map_fd("denied"))[(Role.TRAINER, Rule.SOCK_CREATE)] == 1

# SPDX-License-Identifier: Apache-2.0
"""A trainer out of a container image: podman mounts it, our own launch path starts the trainer in it.

The image is made here, of this host's Python and the package's environment, without a registry. Podman needs
no container, no cgroup and no network for this; its store lies in the test's own folder.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from daemon.conftest import daemon, federation, make_daemon, numbers
from daemon.federation import Federation
from daemon.rig import Daemon
from packages.test_packages import package

__all__ = ["daemon", "federation", "make_daemon", "numbers"]
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
PYTHON = "/opt/trainer/bin/python3"
IMAGE = "localhost/homebound-trainer"
LIBRARY = re.compile(r"(/\S+) \(0x")


def copy(path: str, root: Path) -> None:
    """A file of this host and the links to it, below ``root``, with /lib as a link to usr/lib."""
    merged = re.sub("^/lib", "/usr/lib", path)
    target = root / merged.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(path, target)


def make_root(root: Path, scratch: Path) -> None:
    """This host's Python, the environment out of the package, and the libraries that both load."""
    subprocess.run(["dpkg-deb", "-x", package("homebound"), scratch], check=True)
    (root / "opt").mkdir(parents=True)
    (scratch / "usr/lib/homebound/venv").rename(root / "opt/trainer")
    python = Path("/usr/bin/python3").resolve()
    shutil.copytree(f"/usr/lib/{python.name}", root / f"usr/lib/{python.name}", symlinks=True)
    copy(str(python), root)
    (root / "usr/bin/python3").symlink_to(python.name)
    for name in ("python", "python3", python.name):
        (root / "opt/trainer/bin" / name).unlink(missing_ok=True)
        (root / "opt/trainer/bin" / name).symlink_to("/usr/bin/python3")
    objects = [python, *root.glob("usr/lib/python3*/lib-dynload/*.so"), *root.glob("opt/**/*.so")]
    told = subprocess.run(["ldd", *map(str, objects)], capture_output=True, text=True, check=False).stdout
    for library in sorted(set(LIBRARY.findall(told))):
        if not library.startswith(str(root)):
            copy(library, root)
    for name in ("lib", "lib64", "bin"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc").mkdir()
    (root / "etc/ld.so.conf").write_text("include /etc/ld.so.conf.d/*.conf\n")
    shutil.copytree("/etc/ld.so.conf.d", root / "etc/ld.so.conf.d")
    subprocess.run(["ldconfig", "-r", root], check=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image, mounted by podman."""
    folder = tmp_path_factory.mktemp("image")
    make_root(folder / "root", folder / "scratch")
    subprocess.run(["tar", "-C", folder / "root", "-cf", folder / "root.tar", "."], check=True)
    podman = ["podman", "--root", str(folder / "store"), "--runroot", str(folder / "run")]
    subprocess.run([*podman, "import", "--quiet", str(folder / "root.tar"), IMAGE], check=True)
    words = [*podman, "image", "mount", IMAGE]
    place = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    yield Path(place)
    subprocess.run([*podman, "image", "umount", IMAGE], check=True)
    subprocess.run([*podman, "image", "rm", IMAGE], check=True)


def test_a_round_in_an_image(daemon: Daemon, federation: Federation, image: Path) -> None:
    daemon.config["trainer"] |= {"root": str(image), "python": PYTHON}
    daemon.start()
    walls = daemon.wait_ready()["walls"]
    assert all(walls[name]["active"] for name in ("namespaces", "seccomp", "cgroup-bpf"))
    assert federation.ask(daemon.node)["outcome"] == "update"
    trainer = daemon.pid("trainer")
    mounts = Path(f"/proc/{trainer}/mountinfo").read_text().splitlines()
    usr = next(line.split() for line in mounts if line.split()[4] == "/usr")
    assert usr[5].startswith("ro")
    assert usr[usr.index("-") + 1] == "overlay"
    # Its cgroup is ours, and what is refused is counted there.
    assert Path(f"/proc/{trainer}/cgroup").read_text().strip().endswith(f"/{daemon.name}/trainer")
    assert federation.ask(daemon.node, "connects", 23)["outcome"] == "update"
    found = daemon.wait("the violation", lambda s: s["violations"] != [])["violations"]
    assert [(entry["rule"], entry["count"]) for entry in found] == [("socket_stream", 23)]


def test_no_way_out_of_an_image(image: Path) -> None:
    words = [sys.executable, "-m", "homebound", "leaktest", "--json", "--root", str(image)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    channels = json.loads(done.stdout)["channels"]
    assert len(channels) > 20
    assert [entry["name"] for entry in channels if entry["out"]] == []
    assert done.returncode == 0, done.stdout + done.stderr

# SPDX-License-Identifier: Apache-2.0
"""A root of the trainer's own: links are followed as chroot(2) does, and what cannot be a root is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from homebound.errors import ConfigError
from homebound.kernel import sandbox
from homebound.kernel.seccomp import Profile
from homebound.rooms import rootfs

USER = sandbox.Identity(60001, 60001)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As small as a root can be: a merged /usr with a Python, behind two links, one of them absolute."""
    folder = tmp_path / "image"
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "usr/lib").mkdir()
    (folder / "lib").symlink_to("usr/lib")
    (folder / "usr/bin/python3.13").write_text("")
    (folder / "usr/bin/python3.13").chmod(0o755)
    (folder / "usr/bin/python3").symlink_to("/usr/bin/python3.13")
    return folder


def test_links_are_followed_inside(root: Path) -> None:
    assert rootfs.resolve(str(root), "/usr/bin/python3") == "/usr/bin/python3.13"
    assert rootfs.resolve(str(root), "/lib/../../usr/./bin") == "/usr/bin"
    assert rootfs.resolve(str(root), "/../../etc") == "/etc"


@pytest.mark.parametrize("target", ["/etc", "../../../../../../../../etc", "/usr/../../../etc"])
def test_no_link_leads_out(root: Path, target: str) -> None:
    (root / "etc").symlink_to(target)
    # A link to itself, seen from inside; the first one is followed and then stands for a loop.
    (root / "usr/out").symlink_to(f"{target}/passwd")
    with pytest.raises(ConfigError, match="loop"):
        rootfs.resolve(str(root), "/usr/out")
    (root / "etc").unlink()
    assert rootfs.resolve(str(root), "/usr/out") == "/etc/passwd"
    system = rootfs.look(str(root)).system
    assert all(bind.source.startswith((f"{root}/", "/sys/")) for bind in system)


def test_what_the_view_gets(root: Path) -> None:
    (root / "opt/env/bin").mkdir(parents=True)
    (root / "opt/env/bin/python").symlink_to("/usr/bin/python3")
    found = rootfs.look(str(root), "/opt/env/bin/python")
    assert (found.python, found.program) == ("/opt/env/bin/python", "/usr/bin/python3.13")
    assert sandbox.Bind(f"{root}/opt/env", "/opt/env") in found.binds
    assert sandbox.Bind(f"{root}/usr", "/usr") in found.system


def test_rights_are_dropped_by_the_hosts_own_program(root: Path) -> None:
    """Until then the process is root: nothing of the image may run, and no library of it be loaded."""
    found = rootfs.look(str(root))
    view = sandbox.View(found.binds, 1 << 20, system=found.system, setpriv=found.setpriv)
    closed = sandbox.Closed(Profile.SEALED)
    words = sandbox.arguments(view, USER, 9, closed, found.python, "homebound.trainer", [])
    command = words[words.index("--") + 1 :]
    assert command[0] == "/run/setpriv/loader"
    assert command[:5] == list(found.setpriv)
    assert command.index("--no-new-privs") < command.index("/usr/bin/python3")
    first = {bind.target: bind.source for bind in found.binds if bind.target.startswith("/run/setpriv/")}
    assert {"/run/setpriv/loader", "/run/setpriv/setpriv", "/run/setpriv/libc.so.6"} <= first.keys()
    assert not [source for source in first.values() if source.startswith(str(root))]
    assert all(Path(source).is_file() for source in first.values())


def test_what_is_no_root_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no /usr/bin/python3"):
        rootfs.look(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="has no /opt/python"):
        rootfs.look(str(root), "/opt/python")
    (root / "lib").unlink()
    (root / "lib").mkdir()
    with pytest.raises(ConfigError, match="merged"):
        rootfs.look(str(root))

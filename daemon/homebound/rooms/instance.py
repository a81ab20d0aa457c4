# SPDX-License-Identifier: Apache-2.0
"""The places of one device on this host: lock, run and state folders, pins, cgroup tree; made and removed.

Two daemons of one name are kept apart by a lock that the kernel drops when its holder dies.
May import: errors, events, settings, kernel.cgroups, kernel.sandbox (Identity). Source: flock(2).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from homebound.errors import HomeboundError, PermissionMissing
from homebound.events import Role
from homebound.kernel import bpffs, cgroups
from homebound.kernel.cgroups import Cgroup
from homebound.kernel.sandbox import Identity
from homebound.settings import Settings

LOCKS = Path("/run/homebound")
# systemd marks a cgroup that it left to a service (Delegate=yes) by this. systemd.resource-control(5)
DELEGATED = "trusted.delegate"
# Where a user's own manager keeps its units: its user may move processes between them. user@.service(5)
USER_MANAGER = re.compile(r"/(user@[0-9]+\.service)(/|$)")
ROLES = (Role.SUPERVISOR, Role.WATCHER, Role.TRAINER, Role.GUARD, Role.GATEWAY, Role.CANARY)


@dataclass(frozen=True)
class Instance:
    """Where one device keeps its things."""

    run: Path
    state: Path
    pins: Path
    root: Cgroup
    home: str

    @property
    def status_socket(self) -> Path:
        return self.run / "status.sock"

    @property
    def log(self) -> Path:
        return self.state / "trainer.log"

    @property
    def guard_state(self) -> Path:
        return self.state / "guard"

    @property
    def gateway_state(self) -> Path:
        return self.state / "gateway"

    @property
    def credentials(self) -> Path:
        return self.run / "credentials"

    def cgroup(self, role: Role) -> Cgroup:
        return self.root.child(role.label)


def locate(settings: Settings) -> Instance:
    """The places for these settings. ``home`` is the cgroup that the supervisor came from."""
    mount, home = cgroups.mount(), cgroups.own()
    if owner := USER_MANAGER.search(home):
        raise PermissionMissing(
            f"this daemon was started by a user's service manager ({owner[1]}), which cannot keep walls",
            "start it by the system's: sudo systemctl start homebound",
        )
    here = mount / home.lstrip("/")
    root = here if _is_delegated(here) else mount / "homebound" / settings.name
    return Instance(
        run=Path(settings.paths.run) / settings.name,
        state=Path(settings.paths.state) / settings.name,
        pins=bpffs.FOLDER / "homebound" / settings.name,
        root=Cgroup(root, mount),
        home=home,
    )


def _is_delegated(cgroup: Path) -> bool:
    try:
        return os.getxattr(cgroup, DELEGATED) == b"1"
    except OSError:
        return False


def lock(instance: Instance) -> int:
    """Take the device's name; the descriptor holds it. Raises HomeboundError if a daemon has it.

    The file is not in paths.run, because cgroups and pins are shared by name whatever that says.
    """
    path = _lock_file(instance)
    try:
        fd = _open_lock(path)
        instance.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    except PermissionError as error:
        raise PermissionMissing(f"cannot write {error.filename}", "run as root") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A daemon that ends removes the file: a lock on a file that is no longer there locks nobody out.
        if os.fstat(fd).st_ino != path.stat().st_ino:
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError) as error:
        os.close(fd)
        raise HomeboundError(
            f"a daemon named {instance.run.name} already runs",
            "stop it first, or give this one another name in its config",
        ) from error
    return fd


def _lock_file(instance: Instance) -> Path:
    return LOCKS / f"{instance.run.name}.lock"


def _open_lock(path: Path) -> int:
    """Open or make it. Another daemon that ends may just have removed the empty folder: then once more."""
    for _ in range(2):
        path.parent.mkdir(mode=0o755, exist_ok=True)
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    raise HomeboundError(f"{path} cannot be made", "daemons came and went at the same moment: try again")


def make_folders(instance: Instance, users: Mapping[Role, Identity]) -> None:
    """State and run folders, each owned by the one role that may open it."""
    instance.state.mkdir(mode=0o711, parents=True, exist_ok=True)
    for path, role in (
        (instance.guard_state, Role.GUARD),
        (instance.gateway_state, Role.GATEWAY),
        (instance.credentials, Role.GATEWAY),
    ):
        path.mkdir(mode=0o700, exist_ok=True)
        user = users[role]
        for owned in (path, *path.rglob("*")):
            os.chown(owned, user.uid, user.gid, follow_symlinks=False)


def make_tree(instance: Instance) -> None:
    """The cgroups of all roles, empty. What a dead daemon left in them is killed first."""
    if instance.root.path.parent.name == "homebound":
        above = Cgroup(instance.root.path.parent, instance.root.root)
        above.make()
        above.delegate()
    instance.root.make()
    for role in ROLES:
        cgroup = instance.cgroup(role)
        cgroup.make()
        if role is not Role.SUPERVISOR:
            cgroup.kill()
            cgroup.thaw()


def remove_tree(instance: Instance) -> None:
    """Kill every role, go back to where we came from, remove the cgroups. A delegated root stays."""
    if not instance.root.path.exists():
        return  # it could not even be made
    for role in ROLES:
        if role is not Role.SUPERVISOR:
            instance.cgroup(role).kill()
    home = (
        instance.root.path
        if _is_delegated(instance.root.path)
        else _mount(instance) / instance.home.lstrip("/")
    )
    for role in ROLES:
        if role is not Role.SUPERVISOR:
            instance.cgroup(role).remove()
    instance.root.withdraw()
    Cgroup(home if home.exists() else _mount(instance), _mount(instance)).add(0)
    instance.cgroup(Role.SUPERVISOR).remove()
    if home != instance.root.path:
        instance.root.remove()
        _remove_if_empty(instance.root.path.parent)


def _mount(instance: Instance) -> Path:
    return instance.root.root or cgroups.mount()


def _remove_if_empty(path: Path) -> None:
    with suppress(OSError):  # another device of this host is in it
        path.rmdir()


def remove_run(instance: Instance) -> None:
    """The run folder and the lock. Called last, by the holder of the lock."""
    shutil.rmtree(instance.run, ignore_errors=True)
    _lock_file(instance).unlink(missing_ok=True)
    for folder in (instance.run.parent, LOCKS):
        _remove_if_empty(folder)


def listen_status(instance: Instance) -> socket.socket:
    """The socket by which ``homebound status`` asks; root alone may connect (mode 0600)."""
    instance.status_socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(instance.status_socket))
    finally:
        os.umask(mask)
    listener.listen(16)
    listener.setblocking(False)
    return listener

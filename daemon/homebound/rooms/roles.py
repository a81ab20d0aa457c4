# SPDX-License-Identifier: Apache-2.0
"""The table of roles: whom each runs as, what it sees, which calls it may make, how it is started.

This is the place to read what a role can do. Pure, apart from looking up users and groups.
May import: events, settings, rooms.rootfs, rooms.users, kernel.files, kernel.sandbox, kernel.seccomp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from homebound.events import Role
from homebound.kernel.files import FileArea
from homebound.kernel.sandbox import PACKAGE, SCRATCH, Bind, Identity, View
from homebound.kernel.seccomp import Profile
from homebound.rooms import rootfs
from homebound.rooms.rootfs import Rootfs
from homebound.rooms.users import group_numbers, identity
from homebound.settings import Settings

# Scratch of roles that need none to speak of; Python wants a /tmp all the same.
SMALL_SCRATCH = 1 << 20
# Where a role finds what was mounted for it.
DATA, APP, STATE, CREDENTIALS = "/data", "/app", "/state", "/run/credentials"
# What the mounts there are to a role when it opens a file; whatever else it sees is the system.
FILE_AREAS: Mapping[str, FileArea] = {
    DATA: FileArea.DATA, APP: FileArea.APP, STATE: FileArea.STATE,
    **{f"{path}/": FileArea.STATE for path in SCRATCH},
}  # fmt: skip
# The trainer dies first under memory pressure, the watcher last. proc_pid_oom_score_adj(5)
OOM_SCORES = {Role.WATCHER: -900, Role.GUARD: -500, Role.GATEWAY: -500, Role.TRAINER: 800, Role.CANARY: 800}


@dataclass(frozen=True)
class Spec:
    """Everything about how one role is started, but for its descriptors and arguments."""

    role: Role
    module: str
    view: View
    identity: Identity
    profile: Profile
    python: str = sys.executable
    # The file that the interpreter is, all links followed, as /proc tells it.
    program: str = field(default_factory=lambda: os.path.realpath(sys.executable))
    shared_namespaces: frozenset[str] = field(default_factory=frozenset)
    # Most processes and threads, and most memory in bytes; 0 is no limit.
    tasks_max: int = 0
    memory_max_bytes: int = 0

    @property
    def oom_score_adjust(self) -> int:
        return OOM_SCORES[self.role]


def identities(settings: Settings) -> Mapping[Role, Identity]:
    """A user for each role that is not root: homebound-ROLE where it exists, else a number.

    Raises ConfigError when a user or group that the settings ask for does not exist.
    """
    found = {}
    for role in OOM_SCORES:
        uid, gid = identity(role.label, role.value, settings.users.base)
        groups = group_numbers(settings.trainer.groups) if role is Role.TRAINER else ()
        found[role] = Identity(uid, gid, groups)
    return found


def runtime(python: str) -> tuple[Bind, ...]:
    """What a Python and our package need to run, read-only: the environment and, if apart, its base."""
    prefixes = {str(Path(python).parent.parent), str(Path(python).resolve().parent.parent)}
    if python == sys.executable:
        prefixes |= {sys.prefix, sys.base_prefix}
    binds = [Bind(prefix, prefix) for prefix in sorted(prefixes) if not _below(prefix, "/usr")]
    return (_package(), *binds)


def _package() -> Bind:
    return Bind(str(Path(__file__).parents[1]), f"{PACKAGE}/homebound")


def interpreter(settings: Settings) -> Rootfs:
    """The Python that the trainer runs, and what must be mounted for it and our package."""
    if settings.trainer.root:
        found = rootfs.look(settings.trainer.root, settings.trainer.python)
        return replace(found, binds=(_package(), *found.binds))
    python = settings.trainer.python or sys.executable
    return Rootfs(python, os.path.realpath(python), (), runtime(python), View.setpriv)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _execute(binds: tuple[Bind, ...]) -> tuple[str, ...]:
    return tuple(bind.target for bind in binds)


def watcher(user: Identity) -> Spec:
    """Reads counters by handed descriptors and serves metrics; shares the host's network for that port."""
    binds = runtime(sys.executable)
    return Spec(
        Role.WATCHER,
        "homebound.watcher",
        View(binds, SMALL_SCRATCH, network=True, execute=_execute(binds)),
        user,
        Profile.WATCHER,
        shared_namespaces=frozenset({"net"}),
    )


def trainer(settings: Settings, user: Identity) -> Spec:
    """Sees the raw data and the app, both read-only, and nothing of the network."""
    home = interpreter(settings)
    binds = home.binds
    seen = (*binds, Bind(settings.data.path, DATA), Bind(settings.app.path, APP))
    # Bytecode is no part of the hash that was approved, so none is read: stale, it would be other code.
    app = Path(settings.app.path)
    caches = sorted(path for path in app.rglob("__pycache__") if path.is_dir() and not path.is_symlink())
    view = View(
        seen,
        settings.trainer.scratch_bytes,
        execute=(*_execute(binds), APP),
        masks=tuple(f"{APP}/{path.relative_to(app)}" for path in caches),
        system=home.system,
        setpriv=home.setpriv,
    )
    return Spec(
        Role.TRAINER,
        "homebound.trainer",
        view,
        user,
        Profile.SEALED,
        home.python,
        home.program,
        tasks_max=settings.trainer.tasks_max,
        memory_max_bytes=settings.trainer.memory_max_bytes,
    )


def guard(user: Identity, state: Path) -> Spec:
    """Sees updates and its own ledger."""
    binds = runtime(sys.executable)
    view = View((*binds, Bind(str(state), STATE, writable=True)), SMALL_SCRATCH, execute=_execute(binds))
    return Spec(Role.GUARD, "homebound.guard", view, user, Profile.SEALED)


def gateway(settings: Settings, user: Identity, state: Path, credentials: Path) -> Spec:
    """Sees released updates and one TCP port of one address. No names are resolved here."""
    binds = runtime(sys.executable)
    seen = [*binds, Bind(str(state), STATE, writable=True), Bind(str(credentials), CREDENTIALS)]
    if not settings.federation.insecure and not settings.federation.root_certificates:
        seen.append(Bind("/etc/ssl/certs", "/etc/ssl/certs"))
    view = View(
        tuple(seen),
        SMALL_SCRATCH,
        network=True,
        connect_ports=(settings.federation.port,),
        execute=_execute(binds),
    )
    return Spec(
        Role.GATEWAY,
        "homebound.gateway",
        view,
        user,
        Profile.GATEWAY,
        shared_namespaces=frozenset({"net"}),
    )


def canary(user: Identity, root: str = "", python: str = "") -> Spec:
    """The trainer's walls without its data: what tries to get out, so that the walls are seen to hold.

    In the same root file system, if the trainer has one of its own; ``python`` is a path in that.
    """
    module = "homebound.rooms.canary"
    if not root:
        binds = runtime(sys.executable)
        view = View(binds, SMALL_SCRATCH, execute=_execute(binds))
        return Spec(Role.CANARY, module, view, user, Profile.SEALED)
    home = rootfs.look(root, python)
    binds = (_package(), *home.binds)
    view = View(binds, SMALL_SCRATCH, execute=_execute(binds), system=home.system, setpriv=home.setpriv)
    return Spec(Role.CANARY, module, view, user, Profile.SEALED, home.python, home.program)

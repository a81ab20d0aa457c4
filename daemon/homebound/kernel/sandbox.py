# SPDX-License-Identifier: Apache-2.0
"""What a role may see: its mount view, namespaces and identity, as arguments for bubblewrap and setpriv.

bubblewrap is started by root without a user namespace (many hosts forbid those to others). It makes the
namespaces and loads the seccomp filter; setpriv, still before any Python of ours, drops user, groups and
every capability; kernel/enter.py adds the rest. Pure: builds a list of words and touches nothing.
May import: kernel.landlock (its Paths), kernel.seccomp (its Profile).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from homebound.kernel.landlock import Paths
from homebound.kernel.seccomp import Profile

# Where every role sees our own package, whatever its place on the host is.
PACKAGE = "/opt/homebound"
# Host folders that make a Python run; a missing one is passed over by bubblewrap's -try forms.
SYSTEM = ("/usr", "/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu")
# Memory-backed folders of the role's own; each may hold scratch_bytes. They go with the role.
SCRATCH = ("/tmp", "/dev/shm")
LINKS = (("usr/bin", "/bin"), ("usr/sbin", "/sbin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64"))
# A folder that the mount view leaves open and only Landlock closes: writing there tries that wall alone.
LANDLOCK_TRIAL = "/run/landlock-trial"


@dataclass(frozen=True)
class Bind:
    """A host path that shows in the role's view at ``target``."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True)
class View:
    """The mount view and namespaces of one role. ``masks`` are folders in it that shall look empty."""

    binds: tuple[Bind, ...]
    scratch_bytes: int
    network: bool = False
    connect_ports: tuple[int, ...] = ()
    execute: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    # In place of the host's SYSTEM, and of its setpriv at its place: see rooms/rootfs.py.
    system: tuple[Bind, ...] = ()
    setpriv: tuple[str, ...] = ("/usr/bin/setpriv",)


@dataclass(frozen=True)
class Identity:
    """Numeric user, group and further groups of a role."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def landlock_paths(view: View) -> Paths:
    """The same view once more for Landlock: what is mounted is readable, what is writable is writable."""
    read = tuple(bind.target for bind in view.binds if not bind.writable)
    write = tuple(bind.target for bind in view.binds if bind.writable)
    return Paths(
        read=(*read, "/proc", "/etc", "/sys/devices/system/cpu", "/dev/urandom", "/dev/random", "/dev/zero"),
        execute=("/usr", "/bin", "/sbin", "/lib", "/lib64", PACKAGE, *view.execute),
        write=("/dev/null", "/dev/full", *write),
        connect_ports=view.connect_ports,
        scratch=tuple(f"{path} {view.scratch_bytes}" for path in SCRATCH),
    )


@dataclass(frozen=True)
class Closed:
    """What kernel/enter.py closes once more: all calls that ``profile`` does not need, and every descriptor
    but those of the role's ``links`` and the standard ones."""

    profile: Profile
    links: tuple[int, ...] = ()


def arguments(
    view: View,
    identity: Identity,
    seccomp_fd: int,
    closed: Closed,
    python: str,
    module: str,
    rest: Sequence[str],
) -> list[str]:
    """The command line that starts ``module`` as the role, from ``bwrap`` on.

    ``seccomp_fd`` is the number that the filter will have in the child. Order matters to bubblewrap:
    each option is carried out in turn.
    """
    words = ["bwrap", "--die-with-parent", "--as-pid-1", "--new-session"]
    words += [
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup",
        "--hostname",
        "homebound",
    ]
    if not view.network:
        words.append("--unshare-net")
    # bubblewrap makes missing parents with mode 0700, which a role's user could not enter.
    outside = (*SYSTEM, LANDLOCK_TRIAL, *(bind.target for bind in view.binds))
    words += _folders(outside, lambda path: not _is_scratch(path))
    for bind in view.system or [Bind(path, path) for path in SYSTEM]:
        words += ["--ro-bind-try", bind.source, bind.target]
    for target, name in LINKS:
        words += ["--symlink", target, name]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for path in SCRATCH:
        words += ["--perms", "1777", "--size", str(view.scratch_bytes), "--tmpfs", path]
    words += ["--perms", "1777", "--size", "65536", "--tmpfs", LANDLOCK_TRIAL]
    # An environment may lie below /tmp: its parents come after the scratch that covers them.
    words += _folders(outside, _is_scratch)
    for bind in view.binds:
        words += ["--bind" if bind.writable else "--ro-bind", bind.source, bind.target]
    for path in view.masks:
        words += ["--perms", "0755", "--tmpfs", path, "--remount-ro", path]
    # Each by itself, because it is not recursive. A role sets nothing in /proc and makes nothing in /dev;
    # nodes that are there, such as null, can be written all the same.
    words += ["--remount-ro", "/", "--remount-ro", "/proc", "--remount-ro", "/dev"]
    words += ["--chdir", "/tmp", "--clearenv"]
    for name, value in environment(view).items():
        words += ["--setenv", name, value]
    words += ["--seccomp", str(seccomp_fd), "--"]
    words += setpriv(identity, view.setpriv)
    walls = {
        "paths": asdict(landlock_paths(view)), "descriptors": closed.links, "calls": closed.profile.value,
    }  # fmt: skip
    text = json.dumps(walls, separators=(",", ":"))
    return [*words, python, "-B", "-s", "-P", "-m", "homebound.kernel.enter", text, module, *rest]


def _folders(paths: Sequence[str], wanted: Callable[[str], bool]) -> list[str]:
    """Options that make every wanted folder above ``paths``, outermost first, but for mounts themselves."""
    above = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    missing = sorted(path for path in above - {"/", *paths, *SCRATCH} if wanted(path))
    return [word for path in missing for word in ("--perms", "0755", "--dir", path)]


def _is_scratch(path: str) -> bool:
    return any(path.startswith(folder + "/") for folder in SCRATCH)


def setpriv(identity: Identity, program: Sequence[str]) -> list[str]:
    """setpriv(1): become the role's user with no capability left, not even to be gained by execve."""
    groups = ",".join(str(group) for group in identity.groups)
    return [
        *program, f"--reuid={identity.uid}", f"--regid={identity.gid}",
        f"--groups={groups}" if groups else "--clear-groups",
        "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs",
    ]  # fmt: skip


def environment(view: View) -> dict[str, str]:
    """A clean environment: no proxies, and nothing in it by which Flower would phone out."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "LOGNAME": "homebound",
        "USER": "homebound",
        "PYTHONPATH": PACKAGE,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        **view.environment,
    }

# SPDX-License-Identifier: Apache-2.0
"""Is this host fit for homebound: each check with what was found and what to do.

Facts come from kernel/features.py and are found by trying; what can only be tried as root is "unknown"
without it, never "good". Prints nothing. May import: config, errors, kernel, books.spending,
rooms.rootfs, rooms.walls, settings, and of this room attachtrial, hostleaks, loaderchecks,
placechecks, sitechecks, statusclient.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from homebound import __version__
from homebound.books import spending
from homebound.cli import hostleaks, loaderchecks, placechecks, sitechecks, statusclient
from homebound.cli.attachtrial import attach_and_remove
from homebound.config.layers import ETC
from homebound.config.reading import Reading, read
from homebound.errors import HomeboundError
from homebound.kernel import cgroups, features, lsm, seccomp, siteplan
from homebound.rooms import rootfs
from homebound.rooms.roles import OOM_SCORES
from homebound.settings import CanarySettings, PathsSettings

Need = Literal["required", "wanted"]
Result = Literal["good", "bad", "unknown"]

MODULES = "annotated_types click cryptography flwr numpy prometheus_client pydantic rich safetensors".split()
# The canary flies every interval; one flight may be late, two may not.
LATE_CANARY = 2.5
AS_ROOT = "sudo homebound doctor"
LSM_NAMES = "hb_lsm_"
PROGRAM_CHECKS: tuple[tuple[Need, str, str], ...] = (
    ("required", "kernel programs", "without them nothing starts; docs/kernel.md has what each needs"),
    ("wanted", "tracing programs", "all walls stand without them; their figures are missing"),
)


@dataclass(frozen=True)
class Check:
    """One line of the doctor's. ``fact`` is what was found, ``advice`` what to do, empty when all is good."""

    need: Need
    name: str
    result: Result
    fact: str
    advice: str = ""


def versions() -> dict[str, str]:
    """homebound and what it stands on."""
    found = {"homebound": __version__, "python": sys.version.split()[0], "kernel": features.kernel_release()}
    for package in ("flwr", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def examine(config: Path | None = None, etc: Path = ETC) -> list[Check]:
    """Every check, in the order in which a person would mend things."""
    # Before a trial of the programs, which mounts the file system for itself.
    places = _told(placechecks.look([role.label for role in OOM_SCORES]))
    reading, verdict = _configuration(config)
    found = [_root(), _cgroup2(), _bpf(), *_loaders(reading), _seccomp()]
    found += [_program("bwrap", "bubblewrap"), _program("setpriv", "util-linux"), _modules(), _clock()]
    running = _status(config, reading)
    found += [*_programs(running), verdict, *_preload(reading), _btf(), *_counted(), _landlock()]
    found += [_controllers(), _synchronised()]
    found += places
    found += _privacy(reading)
    data = Path(reading.settings.data.path) if reading and reading.settings else None
    found += [
        _check("wanted", hole.name, hole.closed, hole.fact, hole.advice) for hole in hostleaks.look(data)
    ]
    found += _daemon(running, reading)
    needs: tuple[Need, Need] = ("required", "wanted")
    for need in needs:
        for result in sitechecks.run(etc / "check" / f"{need}.d"):
            found.append(_check(need, result.name, result.passed, result.line, "see that program"))
    return found


def _check(need: Need, name: str, good: bool, fact: str, advice: str) -> Check:
    return Check(need, name, "good", fact) if good else Check(need, name, "bad", fact, advice)


def _root() -> Check:
    user = os.geteuid()
    return _check(
        "required", "root", user == 0, "you are root" if user == 0 else f"you are user {user}", AS_ROOT
    )


def _cgroup2() -> Check:
    mounts = features.cgroup2_mounts()
    fact = f"mounted at {mounts[0]}" if mounts else "not mounted"
    return _check("required", "cgroup v2", bool(mounts), fact, "mount -t cgroup2 none /sys/fs/cgroup/unified")


def _bpf() -> Check:
    if os.geteuid() != 0:
        return Check("required", "bpf", "unknown", "only root can try it", AS_ROOT)
    fact = features.bpf_programs()
    advice = (
        "a kernel with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF; in a container, CAP_BPF and CAP_NET_ADMIN"
    )
    return _check("required", "bpf", fact.present, fact.detail, advice)


def _loaders(reading: Reading | None) -> list[Check]:
    """Whether libbpf or bcc can load the programs, whichever the settings want."""
    settings = reading.settings if reading else None
    folder = Path(settings.paths.probes if settings else PathsSettings().probes)
    return _told(loaderchecks.look(settings.loader if settings else "auto", bool(siteplan.names(folder))))


def _told(found: Iterable[loaderchecks.Found]) -> list[Check]:
    return [
        _check("required" if one.required else "wanted", one.name, one.good, one.fact, one.advice)
        for one in found
    ]


def _seccomp() -> Check:
    fact = features.seccomp()
    if not fact.present:
        return Check("required", "seccomp", "bad", fact.detail, "a kernel with CONFIG_SECCOMP_FILTER")
    try:
        os.close(seccomp.compile_filter(seccomp.Profile.SEALED))
    except HomeboundError as error:
        return Check("required", "seccomp", "bad", error.message, error.hint)
    return Check("required", "seccomp", "good", f"{fact.detail}; the trainer's list compiles")


def _program(name: str, package: str) -> Check:
    path = shutil.which(name, path=os.defpath)
    return _check("required", name, path is not None, path or "not found", f"apt install {package}")


def _modules() -> Check:
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    fact = f"missing: {', '.join(missing)}" if missing else f"all {len(MODULES)} are there"
    return _check(
        "required",
        "python modules",
        not missing,
        fact,
        "apt install --reinstall homebound; in a clone, make setup",
    )


def _clock() -> Check:
    """A device without a battery clock starts in 1970; certificates and the federation refuse it then."""
    built = Path(__file__).stat().st_mtime
    now = time.time()
    fact = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now)) + " UTC"
    return _check("required", "clock", now >= built, fact, "set it: it is before these files were installed")


def _configuration(config: Path | None) -> tuple[Reading | None, Check]:
    try:
        reading = read(config)
    except HomeboundError as error:
        need: Need = "required" if config else "wanted"
        return None, Check(need, "configuration", "bad", error.message, error.hint)
    count = len(reading.problems)
    fact = str(reading.problems[0]) if count else f"right: {', '.join(reading.files)}"
    more = f" (and {count - 1} more)" if count > 1 else ""
    return reading, _check("required", "configuration", not count, fact + more, "homebound check-config")


def _preload(reading: Reading | None) -> Iterator[Check]:
    """Whether the trainer's own interpreter has the modules that it is to preload."""
    if reading is None or reading.settings is None:
        return
    trainer = reading.settings.trainer
    python = trainer.python or sys.executable
    code = "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if not u.find_spec(n)])"
    if trainer.root and os.geteuid() != 0:
        yield Check(
            "required", "trainer modules", "unknown", f"only root can look into {trainer.root}", AS_ROOT
        )
        return
    inside = ["chroot", trainer.root] if trainer.root else []
    python = (trainer.python or rootfs.PYTHON) if trainer.root else python
    done = subprocess.run(
        [*inside, python, "-I", "-c", code, *trainer.preload],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    missing = done.stdout.strip()
    good = done.returncode == 0 and not missing
    fact = (
        f"{python} lacks {missing}"
        if missing
        else f"{python} has {', '.join(trainer.preload) or 'all it needs'}"
    )
    if done.returncode != 0:
        fact = f"{python} does not run"
    yield _check("required", "trainer modules", good, fact, "install them there, or correct trainer.preload")


def _btf() -> Check:
    fact = features.btf()
    return _check("wanted", "kernel types", fact.present, fact.detail, "a kernel with CONFIG_DEBUG_INFO_BTF")


def _counted() -> Iterator[Check]:
    """What the kernel counts for each thread, of which the programs make sums."""
    for name, fact in (("run-queue wait", features.sched_info()), ("block I/O", features.task_io())):
        yield _check("wanted", name, fact.present, fact.detail, "without it that figure is missing")


def security_hooks(programs: Sequence[Mapping[str, Any]], modules: Sequence[str] | None) -> Check:
    """The programs on security hooks: a further wall. ``modules``: the kernel's, None where nobody knows."""
    lacking = [program for program in programs if not program["attached"]]
    if modules is None:
        advice = "mount -t securityfs none /sys/kernel/security"
        return Check("wanted", "bpf lsm", "unknown", "securityfs is not mounted", advice)
    fact = f"all {len(programs)} programs attach"
    if lacking:
        fact = f"{len(lacking)} of {len(programs)} programs do not attach: {lacking[0]['reason']}"
    if lsm.MODULE not in modules:
        advice = "boot with lsm=...,bpf where the kernel has CONFIG_BPF_LSM; without it one wall is missing"
    elif all(program["need"] == "off" for program in lacking):
        advice = "kernel.security_hooks = true switches them on; docs/limits.md says what was seen then"
    else:
        advice = "`homebound status` has the reason of each; without them one wall is missing"
    return _check("wanted", "bpf lsm", not lacking, fact, advice)


def _landlock() -> Check:
    version = features.landlock_abi()
    fact = f"ABI {version}, tried" if version else "none, or it did not hold"
    return _check(
        "wanted", "landlock", version > 0, fact, "boot with lsm=landlock,...; without it a wall is missing"
    )


def _controllers() -> Check:
    try:
        here = (cgroups.mount() / "cgroup.controllers").read_text().split()
    except (HomeboundError, OSError) as error:
        return Check("wanted", "controllers", "unknown", str(error), "see cgroup v2")
    missing = [name for name in cgroups.CONTROLLERS if name not in here]
    fact = f"not in cgroup v2: {', '.join(missing)}" if missing else ", ".join(here)
    advice = "boot with systemd.unified_cgroup_hierarchy=1; without them limits do not hold"
    return _check("wanted", "controllers", not missing, fact, advice)


def _synchronised() -> Check:
    """The federation refuses a clock that is 5 s ahead or 300 s behind."""
    advice = "run a time service such as systemd-timesyncd or chrony"
    program = shutil.which("timedatectl", path=os.defpath)
    if program is None:
        return Check("wanted", "time service", "unknown", "there is no timedatectl to ask", advice)
    words = [program, "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return Check("wanted", "time service", "unknown", "timedatectl did not answer", advice)
    answer = done.stdout.strip()
    if answer not in ("yes", "no"):
        return Check("wanted", "time service", "unknown", "timedatectl could not tell", advice)
    return _check("wanted", "time service", answer == "yes", f"synchronised: {answer}", advice)


def _privacy(reading: Reading | None) -> list[Check]:
    """Whether the limit on epsilon is one that says something about privacy."""
    if reading is None or reading.settings is None:
        return []
    guard = reading.settings.guard
    good = 0 < guard.epsilon_limit <= spending.WEAK_EPSILON and guard.noise_multiplier > 0
    fact = f"up to epsilon {guard.epsilon_limit:g}" if guard.epsilon_limit else "no limit on epsilon"
    fact = f"{fact} at noise {guard.noise_multiplier:g}; " + (
        "a weak guarantee at the least" if good else "this is no guarantee of differential privacy"
    )
    advice = (
        "it bounds how much leaves, not what can be learnt; docs/privacy.md says what more noise costs, "
        "then lower guard.epsilon_limit"
    )
    return [_check("wanted", "privacy limit", good, fact, advice)]


def _status(config: Path | None, reading: Reading | None) -> Mapping[str, Any] | HomeboundError:
    """The document of a running daemon, or why there is none."""
    try:
        return statusclient.ask(*statusclient.locate(config if reading else None, None, None))
    except HomeboundError as error:
        return error


def _programs(running: Mapping[str, Any] | HomeboundError) -> list[Check]:
    """Whether every program is attached: asked of a running daemon, else tried in a cgroup of its own."""
    try:
        found = attach_and_remove() if isinstance(running, HomeboundError) else running.get("programs", [])
    except HomeboundError as error:
        return [Check("required", "kernel programs", "unknown", error.message, error.hint)]
    hooks = [program for program in found if program["name"].startswith(LSM_NAMES)]
    checks = [security_hooks(hooks, features.lsm())]
    found = [program for program in found if not program["name"].startswith(LSM_NAMES)]
    for need, name, advice in PROGRAM_CHECKS:
        mine = [program for program in found if program["need"] == need]
        lacking = [f"{program['name']}: {program['reason']}" for program in mine if not program["attached"]]
        fact = "; ".join(lacking) or f"all {len(mine)} attach"
        checks.append(_check(need, name, not lacking, fact, advice))
    return checks


def _daemon(document: Mapping[str, Any] | HomeboundError, reading: Reading | None) -> list[Check]:
    """What a running daemon says of itself; nothing is held against one that does not run."""
    if isinstance(document, HomeboundError):
        return [Check("wanted", "daemon", "unknown", document.message, document.hint)]
    interval = reading.values.get("canary.interval_seconds") if reading else None
    late = LATE_CANARY * float(interval or CanarySettings().interval_seconds)
    return [
        check(document, late) for check in DAEMON_CHECKS if document.get("site_probes") or check is not _site
    ]


def _site(document: Mapping[str, Any], late: float) -> Check:
    """Probes of the site's own; nothing is said where there are none."""
    del late
    states = document["site_probes"]
    lacking = [f"{state['name']}: {state['reason']}" for state in states if state["reason"]]
    fact = "; ".join(lacking) or f"all {len(states)} are loaded"
    return _check("wanted", "site probes", not lacking, fact, "docs/probes.md says what one may be")


def _watched(document: Mapping[str, Any], late: float) -> Check:
    del late
    state = document["roles"]["watcher"]["state"]
    return _check("required", "watcher", state == "running", state, "journalctl -u homebound")


def _canary(document: Mapping[str, Any], late: float) -> Check:
    canary = document["canary"]
    age = canary["age_seconds"]
    good = bool(canary["tried"]) and canary["out"] == 0 and age is not None and age <= late
    fact = (
        f"{canary['out']} of {canary['tried']} got out, {age:.0f} s ago" if age is not None else "never flew"
    )
    return _check("required", "canary", good, fact, "homebound status")


def _sealed(document: Mapping[str, Any], late: float) -> Check:
    del late
    walls = document["walls"]
    open_walls = [name for name in ("namespaces", "seccomp", "cgroup-bpf") if not walls[name]["active"]]
    fact = f"not seen to hold: {', '.join(open_walls)}" if open_walls else "every attempt was refused"
    return _check("required", "trainer has no network", not open_walls, fact, "homebound status")


def _budget(document: Mapping[str, Any], late: float) -> Check:
    del late
    advice = "no more training on this device's data; see docs/privacy.md before a limit is raised"
    if not document.get("privacy"):
        return Check("wanted", "privacy budget", "unknown", "the guard has not said yet", "ask again")
    privacy = document["privacy"]
    return _check("wanted", "privacy budget", not privacy["exhausted"], spending.words(privacy), advice)


def _ledger(document: Mapping[str, Any], late: float) -> Check:
    del late
    if not document.get("ledger"):
        return Check("wanted", "ledger", "unknown", "the guard has not said yet", "ask again")
    trouble = document["ledger"]["trouble"]
    fact = trouble or f"{document['ledger']['entries']} entries, the newest is known to root, too"
    return _check("wanted", "ledger", not trouble, fact, "make room on the disk of paths.state")


DAEMON_CHECKS: tuple[Callable[[Mapping[str, Any], float], Check], ...] = (
    _watched, _canary, _sealed, _budget, _ledger, _site,
)  # fmt: skip

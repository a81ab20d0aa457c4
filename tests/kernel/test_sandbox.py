# SPDX-License-Identifier: Apache-2.0
"""The sandbox for real: the canary behind it is refused by each wall, and the look from outside finds none
missing. What each wall does alone is tried with that wall left out."""

from __future__ import annotations

import errno
import json
import os
import py_compile
import resource
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from homebound.kernel import audit, cgroups, sandbox, seccomp, spawn
from homebound.kernel.cgroups import Cgroup
from homebound.kernel.enter import LIFE_FD
from homebound.kernel.sandbox import PACKAGE, Bind, Identity, View
from homebound.kernel.spawn import Child, Command
from homebound.leaktest.without import leave_out
from homebound.rooms import canary

pytestmark = pytest.mark.root

UID = 60697
SECCOMP_FD = 9
PACKAGE_FOLDER = Path(canary.__file__).parents[1]


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    made = Cgroup(cgroups.mount() / f"homebound-test-{os.getpid()}")
    made.make()
    yield made
    made.kill()
    made.thaw()
    made.remove()


def view(**changes: object) -> View:
    binds = [Bind(str(PACKAGE_FOLDER), f"{PACKAGE}/homebound")]
    binds += [
        Bind(prefix, prefix) for prefix in {sys.prefix, sys.base_prefix} if not prefix.startswith("/usr")
    ]
    plain = View(tuple(binds), 1 << 20, execute=tuple(bind.target for bind in binds))
    return replace(plain, **changes)  # type: ignore[arg-type]


def words_for(seen: View, module: str, *rest: str) -> list[str]:
    closed = sandbox.Closed(seccomp.Profile.SEALED)
    return sandbox.arguments(seen, Identity(UID, UID), SECCOMP_FD, closed, sys.executable, module, rest)


def start(
    cgroup: Cgroup, words: list[str], profile: seccomp.Profile = seccomp.Profile.SEALED
) -> tuple[Child, int]:
    reading, writing = os.pipe()
    filter_fd = seccomp.compile_filter(profile)
    child = spawn.spawn(Command(words, {1: writing, 2: 2, SECCOMP_FD: filter_fd}), cgroup.path)
    os.close(filter_fd)
    os.close(writing)
    return child, reading


def finish(child: Child, reading: int) -> bytes:
    text = b""
    while select.select([reading], [], [], 30)[0] and (part := os.read(reading, 65536)):
        text += part
    os.close(reading)
    os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    return text


def sealed(cgroup: Cgroup, words: list[str]) -> dict[str, int]:
    results: dict[str, int] = json.loads(finish(*start(cgroup, words)))
    return results


def test_every_wall_refuses_the_canary(cgroup: Cgroup) -> None:
    trials = canary.judge(sealed(cgroup, words_for(view(), "homebound.rooms.canary", "sealed")))
    inside = [trial for trial in trials if trial.wall != "cgroup-bpf"]
    assert [trial.name for trial in inside if not trial.held] == []
    assert len(inside) == len(canary.SEALED)


def test_without_seccomp_the_calls_get_through(cgroup: Cgroup) -> None:
    words = words_for(view(), "homebound.rooms.canary", "sealed")
    results = sealed(cgroup, leave_out(words, ["seccomp", "entry"]))
    assert [results[name] for name in ("tcp", "udp", "unix", "io_uring")] == [0, 0, 0, 0]
    assert results["second_filter"] == errno.EINVAL
    assert results["write_root"] != 0


def test_without_the_first_filter_the_second_holds_the_same_calls(cgroup: Cgroup) -> None:
    words = words_for(view(), "homebound.rooms.canary", "sealed")
    results = sealed(cgroup, leave_out(words, ["seccomp"]))
    names = ("tcp", "udp", "unix", "packet", "vsock", "netlink", "keyring", "io_uring", "unshare")
    assert {name: results[name] for name in names} == dict.fromkeys(names, errno.EPERM)
    assert results["core_limit"] == 0, "the control: the first one is gone"


def test_without_the_namespaces_the_host_shows(cgroup: Cgroup) -> None:
    words = words_for(view(network=True), "homebound.rooms.canary", "sealed")
    results = sealed(cgroup, [word for word in words if word not in ("--unshare-pid", "--as-pid-1")])
    assert results["see_processes"] == 0
    assert results["tcp"] != 0


def test_without_landlock_the_folder_beside_is_open(cgroup: Cgroup) -> None:
    words = words_for(view(), "homebound.rooms.canary", "sealed")
    at = words.index("homebound.kernel.enter")
    results = sealed(cgroup, [*words[:at], "homebound.rooms.canary", "sealed"])
    assert results["write_beside"] == 0
    assert results["write_root"] != 0


def test_a_frozen_cgroup_holds_the_first_instruction(cgroup: Cgroup) -> None:
    cgroup.set("cgroup.freeze", "1")
    child, reading = start(cgroup, words_for(view(), "homebound.rooms.canary", "sealed"))
    assert not select.select([reading, child.pidfd], [], [], 0.5)[0]
    assert "bwrap" not in os.readlink(f"/proc/{child.pid}/exe")
    cgroup.thaw()
    assert json.loads(finish(child, reading))


def test_the_look_from_outside_finds_all_walls(cgroup: Cgroup) -> None:
    child, reading = start(cgroup, words_for(view(), "http.server", "--help"))
    finish(child, reading)
    child, reading = start(cgroup, words_for(view(), "timeit", "-n1", "-r1", "__import__('time').sleep(1)"))
    facts = seen(cgroup, child)
    own = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in audit.NAMESPACES}
    expected = audit.Expected(UID, UID, frozenset({UID}), frozenset(), frozenset())
    assert audit.decide(facts, own, expected) == []
    with_host_network = replace(facts, namespaces={**facts.namespaces, "net": own["net"]})
    assert audit.decide(with_host_network, own, expected) != []
    finish(child, reading)


def seen(cgroup: Cgroup, child: Child) -> audit.Facts:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for pid in cgroup.pids():
            try:
                facts = audit.read_facts(pid)
            except (OSError, KeyError):
                continue
            if pid != child.pid and facts.uids == {UID} and facts.program == os.path.realpath(sys.executable):
                return facts
        time.sleep(0.01)
    raise AssertionError("the role never ran")


def test_only_the_named_descriptors_are_there(cgroup: Cgroup) -> None:
    secret, other = os.pipe()
    os.set_inheritable(other, True)
    code = "print(sorted(int(n) for n in __import__('os').listdir('/proc/self/fd')))"
    reading, writing = os.pipe()
    link, end = os.pipe()
    command = Command([sys.executable, "-I", "-c", code], {1: writing, 5: end})
    child = spawn.spawn(command, cgroup.path)
    for fd in (writing, end, link, secret, other):
        os.close(fd)
    # 3 is the listing itself.
    assert json.loads(finish(child, reading)) == [0, 1, 2, 3, 5, LIFE_FD]


def test_a_role_whose_starter_died_too_early_does_not_begin(cgroup: Cgroup) -> None:
    """Before it asks to die with us, nobody tells it. The control is every other test."""
    reading, writing = os.pipe()
    starter = os.fork()
    if starter == 0:
        os.close(reading)
        cgroup.set("cgroup.freeze", "1")
        filter_fd = seccomp.compile_filter(seccomp.Profile.SEALED)
        # The outermost bubblewrap asks to die with us, too, but not before it runs.
        words = words_for(view(), "homebound.rooms.canary", "sealed")
        spawn.spawn(Command(words, {1: writing, 2: 2, SECCOMP_FD: filter_fd}), cgroup.path)
        os._exit(0)
    os.close(writing)
    os.waitpid(starter, 0)
    deadline = time.monotonic() + 10
    while not cgroup.pids() and time.monotonic() < deadline:
        time.sleep(0.01)
    cgroup.thaw()
    assert select.select([reading], [], [], 30)[0]
    assert os.read(reading, 65536) == b""
    os.close(reading)


COPIES = 1000


def dump_of(folder: Path, cgroup: Cgroup, secret: str, before: str) -> bytes:
    """What is dumped of a process that gets past the limit and has a secret in its memory."""
    code = (
        f"{before}; import os; kept = bytes.fromhex('{secret}') * {COPIES}; os.chdir('{folder}'); os.abort()"
    )
    child = spawn.spawn(Command([sys.executable, "-I", "-c", code], {2: 2}), cgroup.path)
    _, status = os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    assert os.WCOREDUMP(status)
    (file,) = folder.iterdir()
    text = file.read_bytes()
    file.unlink()
    return text


def test_a_dump_has_no_memory_in_it(cgroup: Cgroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the first wall; were it gone, this is the second."""
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/", "@")):
        pytest.skip("this host gives its dumps to a program or another folder")
    monkeypatch.setattr(spawn, "NO_CORE", resource.getrlimit(resource.RLIMIT_CORE)[1])
    secret = os.urandom(16).hex()
    all_kinds = "open('/proc/self/coredump_filter', 'w').write('0xff')"
    assert dump_of(tmp_path, cgroup, secret, all_kinds).count(bytes.fromhex(secret)) >= COPIES, "the control"
    dump = dump_of(tmp_path, cgroup, secret, "pass")
    found = dump.count(bytes.fromhex(secret))
    print(f"{len(dump)} bytes, {found} copies of the secret, in vector registers")
    assert found < COPIES / 10


def test_core_dumps_are_off_and_the_name_of_a_failure_is_told(
    cgroup: Cgroup, capfd: pytest.CaptureFixture[str]
) -> None:
    child = spawn.spawn(Command(["/no/such/program"], {2: 2}), cgroup.path)
    _, status = os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    assert os.waitstatus_to_exitcode(status) == 127
    assert "cannot start /no/such/program" in capfd.readouterr().err


@pytest.mark.parametrize("profile", list(seccomp.Profile))
def test_each_filter_is_a_classic_bpf_program(profile: seccomp.Profile) -> None:
    fd = seccomp.compile_filter(profile)
    size = os.fstat(fd).st_size
    os.close(fd)
    assert size % 8 == 0
    assert 8 * 50 < size < 8 * 4096  # BPF_MAXINSNS


def test_stale_bytecode_of_the_app_is_not_run(cgroup: Cgroup, tmp_path: Path) -> None:
    """The approved hash knows sources alone, so a compiled file beside them must be invisible."""
    tmp_path.chmod(0o755)
    source = tmp_path / "told.py"
    source.write_text("print('other code')\n")
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_text("print('approved code')\n")
    app = Bind(str(tmp_path), "/app")
    binds, environment = (*view().binds, app), {"PYTHONPATH": f"{PACKAGE}:/app"}
    execute = (*view().execute, "/app")
    masked = view(binds=binds, environment=environment, execute=execute, masks=("/app/__pycache__",))
    unmasked = replace(masked, masks=())
    assert finish(*start(cgroup, words_for(masked, "timeit", "-n1", "-r1", "import told"))).startswith(
        b"approved"
    )
    assert finish(*start(cgroup, words_for(unmasked, "timeit", "-n1", "-r1", "import told"))).startswith(
        b"other"
    )

# SPDX-License-Identifier: Apache-2.0
"""What an operator may hand over without knowing: a data folder that leads elsewhere, an app that is hostile,
a model file that is a program. Each attempt works outside; in the trainer it does not."""

from __future__ import annotations

import ast
import os
import pickle
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import ROOT
from homebound.records import RecordsError, unpack
from leaks.trainers import USER, own_data, trainer, write_app

pytestmark = pytest.mark.root

SECRET = "the record of somebody else"
# By name: what is tried on the data folder, and the error that it meets in the trainer.
ATTEMPTS: Mapping[str, tuple[str, str]] = {
    "link": ('open("{data}/link").read()', "ENOENT"),
    "relative_link": ('open("{data}/relative").read()', "ENOENT"),
    "above": ('open("{data}/../outside").read()', "ENOENT"),
    "hard_link": ('open("{data}/hard").read()', "EACCES"),
    "hard_link_for_writing": ('open("{data}/open", "a").write("x")', "EROFS"),
    "fifo": ('os.write(os.open("{data}/fifo", os.O_WRONLY | os.O_NONBLOCK), b"x")', "EACCES"),
    "socket": ('socket.socket(socket.AF_UNIX).connect("{data}/socket")', "EPERM"),
    "device": ('os.write(os.open("{data}/device", os.O_WRONLY), b"x")', "EACCES"),
    "mount": ('open("{data}/mount/new", "w").write("x")', "EROFS"),
    "new_file": ('open("{data}/new", "w").write("x")', "EROFS"),
}
OUTSIDE = """
import errno, os, socket, sys
try:
    {attempt}
    print("through")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@contextmanager
def mounted(place: Path) -> Iterator[None]:
    """A file system in memory that everybody may write."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def hostile(folder: Path) -> Iterator[Path]:
    """A data folder with everything in it that leads elsewhere."""
    data = own_data(folder / "data")
    outside = folder / "outside"
    outside.write_text(SECRET)
    for name, mode in (("hard", 0o600), ("open", 0o666)):
        (folder / name).write_text(SECRET)
        (folder / name).chmod(mode)
        (data / name).hardlink_to(folder / name)
    (data / "link").symlink_to(outside)
    (data / "relative").symlink_to("../outside")
    os.mkfifo(data / "fifo")
    os.mknod(data / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (data / "mount").mkdir()
    with socket.socket(socket.AF_UNIX) as listener, mounted(data / "mount"):
        listener.bind(str(data / "socket"))
        listener.listen()
        for name in ("fifo", "device", "socket"):
            (data / name).chmod(0o666)
        reader = os.open(data / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield data
        finally:
            os.close(reader)


def attempts(data: str) -> list[str]:
    return [f'attempt("{name}", lambda: {code.format(data=data)})' for name, (code, _) in ATTEMPTS.items()]


def outside(code: str) -> str:
    """What the same attempt meets as root, without a sandbox."""
    words = [sys.executable, "-c", OUTSIDE.format(attempt=code)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def test_what_lies_in_the_data_folder_leads_nowhere(folder: Path, hostile: Path) -> None:
    app = write_app(folder / "app", attempts("/data"))
    with trainer(app, hostile) as running:
        assert running.load() == "ready"
        assert running.train().kind == "update"
        said = running.said()
    print(said)
    assert said == {name: error for name, (_, error) in ATTEMPTS.items()}
    assert (folder / "open").read_text() == SECRET
    for name, (code, _) in ATTEMPTS.items():
        assert outside(code.format(data=hostile)) == "through", name


def test_a_fifo_is_held_by_landlock_and_by_nothing_else(folder: Path, hostile: Path) -> None:
    """A read-only mount lets a FIFO be written, so the folder is looked through before the daemon starts."""
    app = write_app(folder / "app", attempts("/data"))
    with trainer(app, hostile, without=["landlock"], inspected=False) as running:
        assert running.load() == "ready"
        running.train()
        said = running.said()
    assert {name for name, error in said.items() if error.startswith("through")} == {"fifo"}


def test_a_mount_that_comes_later_is_not_seen(folder: Path) -> None:
    """Mounts of the host reach other namespaces where they are shared, as systemd has it, writable."""
    data = own_data(folder / "data")
    with mounted(data):
        subprocess.run(["mount", "--make-shared", str(data)], check=True)
        own_data(data)
        (data / "late").mkdir()
        app = write_app(folder / "app", ['attempt("late", lambda: open("/data/late/new", "w").write("x"))'])
        for without in ([], ["landlock"]):
            with trainer(app, data, without) as running:
                assert running.load() == "ready"
                with mounted(data / "late"):
                    running.train()
                    assert running.said() == {"late": "EROFS"}
                    assert list((data / "late").iterdir()) == []
                    assert outside(f'open("{data}/late/new", "w").write("x")') == "through"


def test_a_file_that_is_replaced_during_training(folder: Path) -> None:
    """The name leads to something else each time; what the trainer may do does not change."""
    data = own_data(folder / "data")
    secret = folder / "outside"
    secret.write_text(SECRET)
    file = data / "numbers.csv"
    app = write_app(
        folder / "app",
        [
            'attempt("read", lambda: open("/data/numbers.csv").read().strip())',
            "flags = os.O_RDWR | os.O_NONBLOCK",
            'attempt("write", lambda: os.write(os.open("/data/numbers.csv", flags), b"x"))',
        ],
    )
    with trainer(app, data) as running:
        assert running.load() == "ready"
        running.train()
        assert running.said() == {"read": "through 1,2,3", "write": "EROFS"}
        file.unlink()
        file.write_text("4,5,6\n")
        file.chmod(0o666)
        running.train()
        assert running.said() == {"read": "through 4,5,6", "write": "EROFS"}
        file.unlink()
        file.symlink_to(secret)
        assert file.read_text() == SECRET
        running.train()
        assert running.said() == {"read": "ENOENT", "write": "ENOENT"}
        file.unlink()
        os.mknod(file, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        running.train()
        assert running.said() == {"read": "EACCES", "write": "EACCES"}


@pytest.mark.parametrize("clientapp", ["os:system", "app:missing", "../app:app", "no.such.module:app", ":"])
def test_a_project_file_that_names_something_else(folder: Path, clientapp: str) -> None:
    app = write_app(folder / "app", clientapp=clientapp)
    with trainer(app, own_data(folder / "data")) as running:
        assert running.load() == "failed"
        assert running.train().header["code"] == "app_not_loaded"


@pytest.mark.parametrize("text", ["", "[tool.flwr]\napp = 1\n", "\0\0"])
def test_a_project_file_that_is_none(folder: Path, text: str) -> None:
    app = write_app(folder / "app")
    (app / "pyproject.toml").write_text(text)
    with trainer(app, own_data(folder / "data")) as running:
        assert running.load() == "failed"
        assert running.train().header["code"] == "app_not_loaded"


def test_files_that_python_runs_by_itself_are_not_run(folder: Path) -> None:
    """Only what the app imports runs, and only when it is loaded."""
    loud = 'print("RAN", __name__ if "__name__" in globals() else "", flush=True)\n'
    app = write_app(
        folder / "app",
        ['print("trained")'],
        sitecustomize__py=loud,
        usercustomize__py=loud,
        json__py=loud,
        socket__py=loud,
        evil__pth="import sys; sys.stdout.write('RAN a pth\\n')\n",
        pyvenv__cfg="home = /app\n",
        setup__py=loud,
        conftest__py=loud,
    )
    for package in ("homebound", "flwr", "encodings"):
        (app / package).mkdir()
        (app / package / "__init__.py").write_text(loud)
    (app / "app.py").write_text((app / "app.py").read_text() + 'print("imported", flush=True)\n')
    with trainer(app, own_data(folder / "data")) as running:
        assert running.load() == "ready"
        assert running.train().kind == "update"
        said = running.said()
    assert said == {"imported": "", "trained": ""}


def test_what_an_import_does_is_done_behind_the_walls(folder: Path) -> None:
    app = write_app(folder / "app")
    lines = ['attempt("connect", lambda: socket.create_connection(("127.0.0.1", 9)))']
    lines += ['attempt("write", lambda: open("/opt/homebound/homebound/watcher/policy.py", "a"))']
    lines += ['attempt("stop", lambda: os.kill(1, 0))', "sys.stdout.flush()", "sys.exit(7)"]
    (app / "app.py").write_text((app / "app.py").read_text() + "\n".join(lines) + "\n")
    with trainer(app, own_data(folder / "data")) as running:
        assert running.load() == "failed"
        said = running.said()
        # Number 1 is the trainer itself: it is alone in its namespace.
        assert {name: said[name] for name in ("connect", "write", "stop")} == {
            "connect": "EPERM",
            "write": "EACCES",
            "stop": "through",
        }
        assert running.train().header["code"] == "app_not_loaded"


def test_a_native_library_is_behind_the_same_walls(folder: Path) -> None:
    """Its code runs when it is loaded, calls the kernel by itself, and meets the same filter."""
    compiler = shutil.which("cc") or shutil.which("clang") or shutil.which("clang-14")
    if compiler is None:
        pytest.skip("there is no compiler here")
    source = folder / "native.c"
    source.write_text(
        "#include <unistd.h>\n#include <sys/syscall.h>\n#include <errno.h>\n"
        "static int at_load;\n"
        "__attribute__((constructor)) static void begin(void)\n"
        "{ at_load = syscall(SYS_socket, 2, 1, 0) < 0 ? errno : 0; }\n"
        "int tried(void) { return at_load; }\n"
    )
    lines = ["import ctypes", 'print("native", ctypes.CDLL("/app/native.so").tried())']
    app = write_app(folder / "app", lines)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(app / "native.so"), str(source)], check=True)
    code = f"import ctypes; print(ctypes.CDLL({str(app / 'native.so')!r}).tried())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "0"
    with trainer(app, own_data(folder / "data")) as running:
        assert running.load() == "ready"
        running.train()
        assert running.said() == {"native": "1"}  # EPERM


def test_a_later_run_finds_nothing_of_an_earlier_one(folder: Path) -> None:
    """Whatever a run leaves wherever it can write: scratch goes with the process."""
    # Its home is /tmp.
    places = 'dict.fromkeys(["/tmp", "/dev/shm", "/app", "/data", "/var/tmp", "/run", "/", *sys.path])'
    app = write_app(
        folder / "app",
        [
            f"for place in {places}:",
            '    mark = os.path.join(place, "left-behind")',
            '    print("found" if os.path.exists(mark) else "absent", place, flush=True)',
            "    try:",
            '        open(mark, "w").close()',
            '        print(f"wrote-{place}")',
            "    except OSError:",
            "        pass",
        ],
    )
    data = own_data(folder / "data")
    for _ in range(2):
        with trainer(app, data) as running:
            assert running.load() == "ready"
            running.train(1)
            first = running.said()
            running.train(2)
            second = running.said()
        # The control: it did write, and within one run it finds that again.
        assert {"wrote-/tmp", "wrote-/dev/shm"} <= set(first)
        assert "found" not in first
        assert "found" in second
    assert not (app / "left-behind").exists()
    assert not (data / "left-behind").exists()
    assert not list(app.rglob("__pycache__"))


class _Program:
    """What a pickle can be: a call."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (self.code,)


def test_a_model_file_that_is_a_pickle_runs_where_the_app_runs(folder: Path) -> None:
    """The app unpickles it, so its code runs: with the app's rights, which lead nowhere."""
    data = own_data(folder / "data")
    mark = folder / "mark"
    code = f"open({str(mark)!r}, 'w').close()"
    (data / "model.pkl").write_bytes(pickle.dumps(_Program(code)))
    app = write_app(
        folder / "app",
        ["import pickle", 'attempt("pickle", lambda: pickle.load(open("/data/model.pkl", "rb")))'],
    )
    with trainer(app, data) as running:
        assert running.load() == "ready"
        running.train()
        assert running.said() == {"pickle": "ENOENT"}
    assert not mark.exists()
    pickle.loads((data / "model.pkl").read_bytes())  # noqa: S301 - the control
    assert mark.exists()


# Reads that run code, by the name of what is called.
UNSAFE_CALLS = {"Unpickler", "loads_pickle", "exec", "eval"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def unsafe(source: str) -> list[str]:
    """Names of what in this source could run code that it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            full = ast.unparse(node.func)
            lets = any(
                word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords
            )
            if name in UNSAFE_CALLS or lets or full in ("torch.load", "yaml.load"):
                found.append(full)
    return found


def test_nothing_of_ours_unpickles(tmp_path: Path) -> None:
    """No role can: not by its source, and not by what it accepts as an update."""
    files = list((ROOT / "daemon/homebound").rglob("*.py"))
    assert len(files) > 50
    assert {str(file): unsafe(file.read_text()) for file in files if unsafe(file.read_text())} == {}
    for bad in (
        "import pickle",
        "from pickle import loads",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
    ):
        assert unsafe(bad), bad
    mark = tmp_path / "mark"
    program = pickle.dumps(_Program(f"open({str(mark)!r}, 'w')"))
    header = [{"name": "arrays", "kind": "arrays", "keys": ["w"]}]
    for body in (program, len(program).to_bytes(8, "little") + program):
        with pytest.raises(RecordsError):
            unpack(header, body)
    assert not mark.exists()
    assert USER.uid

# SPDX-License-Identifier: Apache-2.0
"""The digest of an app folder: changes with what is in it and with nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from homebound import apptree
from homebound.apptree import tree_sha256
from homebound.errors import ConfigError


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "digits" / "deep").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[project]\n")
    (folder / "digits" / "task.py").write_text("x = 1\n")
    (folder / "digits" / "deep" / "data.bin").write_bytes(bytes(range(256)) * 5000)
    return folder


def test_known_value(tmp_path: Path) -> None:
    """The form is a contract: operators write the number down."""
    (tmp_path / "b").write_text("two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c").write_text("one")
    lines = [(hashlib.sha256(b"one"), b"a/c"), (hashlib.sha256(b"two"), b"b")]
    expected = hashlib.sha256(b"".join(d.hexdigest().encode() + b" " + name + b"\0" for d, name in lines))
    assert tree_sha256(tmp_path) == expected.hexdigest()


def test_times_modes_and_bytecode_do_not_count(app: Path) -> None:
    before = tree_sha256(app)
    os.utime(app / "pyproject.toml", (0, 0))
    (app / "digits" / "task.py").chmod(0o700)
    (app / "digits" / "__pycache__").mkdir()
    (app / "digits" / "__pycache__" / "task.cpython-311.pyc").write_bytes(b"code")
    (app / "empty").mkdir()
    assert tree_sha256(app) == before
    copy = app.with_name("copy")
    shutil.copytree(app, copy)
    assert tree_sha256(copy) == before


def _change(app: Path) -> None:
    (app / "digits" / "task.py").write_text("x = 2\n")


def _add(app: Path) -> None:
    (app / ".hidden").write_text("")


def _rename(app: Path) -> None:
    (app / "digits" / "task.py").rename(app / "digits" / "tusk.py")


def _move(app: Path) -> None:
    (app / "digits" / "task.py").rename(app / "task.py")


def _remove(app: Path) -> None:
    (app / "pyproject.toml").unlink()


def _loose_bytecode(app: Path) -> None:
    (app / "digits" / "task.pyc").write_bytes(b"code")


@pytest.mark.parametrize("edit", [_change, _add, _rename, _move, _remove, _loose_bytecode])
def test_every_edit_counts(app: Path, edit: Callable[[Path], None]) -> None:
    before = tree_sha256(app)
    edit(app)
    assert tree_sha256(app) != before


def test_links_and_devices_are_refused(app: Path) -> None:
    assert len(tree_sha256(app)) == 64
    for make in (
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to("/etc"),
        lambda path: path.symlink_to("nowhere"),
        os.mkfifo,
    ):
        make(app / "digits" / "odd")
        with pytest.raises(ConfigError, match="digits/odd, which is no file"):
            tree_sha256(app)
        (app / "digits" / "odd").unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(app / "s"))
        with pytest.raises(ConfigError, match="holds s"):
            tree_sha256(app)


def test_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        tree_sha256(tmp_path / "missing")
    with pytest.raises(ConfigError, match="is empty"):
        tree_sha256(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="Not a directory"):
        tree_sha256(tmp_path / "file")
    assert tree_sha256(tmp_path)


def test_size_is_bounded(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tree_sha256(app)
    monkeypatch.setattr(apptree, "MAX_FILES", 2)
    with pytest.raises(ConfigError, match="larger than an app"):
        tree_sha256(app)
    monkeypatch.setattr(apptree, "MAX_FILES", 3)
    assert tree_sha256(app)
    monkeypatch.setattr(apptree, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="larger than an app"):
        tree_sha256(app)

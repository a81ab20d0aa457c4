# SPDX-License-Identifier: Apache-2.0
"""The configuration files: which ones, in which order, merged by key, and which file each key came from.

Vendor's file, administrator's file, drop-ins; later wins. Knows TOML and tables, not what a setting means.
Never reads the environment: it must not change a security setting. May import: errors, config.problems,
config.reference.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homebound.config.problems import Problem
from homebound.config.reference import toml_key
from homebound.errors import ConfigError, PermissionMissing

ETC = Path("/etc/homebound")
VENDOR = Path("/usr/lib/homebound")
FILE_NAME = "homebound.toml"
DEFAULT = "default"  # the origin of a value that no file sets


@dataclass(frozen=True)
class Places:
    """Where files are looked for; a test has others."""

    etc: Path = ETC
    vendor: Path = VENDOR


@dataclass
class Merge:
    """Tables under way: ``values`` as nested tables, ``origins`` by dotted key, the faults so far."""

    main: str
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, key: str) -> str:
        """The file in which to correct ``key``: where it, or the nearest table around it, was last set."""
        while key not in self.origins and "." in key:
            key = key.rpartition(".")[0]
        return self.origins.get(key, self.main)


def find(file: Path | None, places: Places) -> list[Path]:
    """The files to read, weakest first, without those hidden by a link to /dev/null.

    ``file`` takes the place of /etc/homebound/homebound.toml, and its drop-ins (FILE.d if that is there,
    else conf.d next to it) that of the others. Raises ConfigError when it or everything is missing.
    """
    if file is not None and not _exists(file):
        raise ConfigError(f"{file} does not exist", "correct --config")
    main = file or places.etc / FILE_NAME
    own = main.with_name(main.name + ".d")
    drop_ins = {path.name: path for path in _drop_ins(places.vendor / "conf.d")}
    drop_ins |= {path.name: path for path in _drop_ins(own if own.is_dir() else main.with_name("conf.d"))}
    candidates = [places.vendor / FILE_NAME, main, *(drop_ins[name] for name in sorted(drop_ins))]
    if not any(os.path.lexists(path) for path in candidates[1:]):
        raise ConfigError(
            f"there is no configuration: {main} does not exist",
            f"`homebound show-config --reference > {main}`, then fill in what is required",
        )
    return [path for path in candidates if os.path.lexists(path) and not _masked(path)]


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except PermissionError:
        raise PermissionMissing(f"{file} cannot be read by you", "run this as root") from None


def _drop_ins(folder: Path) -> list[Path]:
    try:
        found = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        raise PermissionMissing(f"{folder} cannot be read by you", "run this as root") from None
    return [path for path in found if path.suffix == ".toml" and not path.name.startswith(".")]


def _masked(path: Path) -> bool:
    return os.path.realpath(path) == os.devnull


def merge(paths: list[Path], main: str) -> Merge:
    """Read all files. What is wrong with a file as a whole ends up in ``problems``."""
    result = Merge(main)
    for path in paths:
        wrong = _add(result, path)
        if wrong is not None:
            result.problems.append(wrong)
    return result


def _add(result: Merge, path: Path) -> Problem | None:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return Problem(str(path), "", "", "is not a file", "remove it, or put a file there")
        if mode & stat.S_IWOTH:
            return Problem(str(path), "", "", "can be changed by everybody", f"chmod o-w {path}")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except PermissionError:
        raise PermissionMissing(f"{path} cannot be read by you", "run this as root") from None
    except OSError as error:
        return Problem(str(path), "", "", f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        return Problem(str(path), "", "", f"is not UTF-8 at byte {error.start}")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return Problem(str(path), "", "", f"is not TOML: {error}")
    _merge(result, result.values, table, str(path), "")
    return None


def _merge(result: Merge, values: dict[str, Any], table: Mapping[str, Any], file: str, prefix: str) -> None:
    for key, value in table.items():
        dotted = f"{prefix}{toml_key(key)}"
        if value != {}:  # the reference has every table, and nobody is to correct that file
            result.origins[dotted] = file
        if isinstance(value, dict):
            if not isinstance(values.get(key), dict):
                values[key] = {}
            _merge(result, values[key], value, file, f"{dotted}.")
        else:
            values[key] = value
